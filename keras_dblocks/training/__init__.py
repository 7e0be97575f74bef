"""Block-wise training on three backends."""
