"""Code for models of images: sizes, pictures of samples, features, latents."""
