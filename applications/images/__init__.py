"""What image systems share: pictures of samples, features, latents."""
