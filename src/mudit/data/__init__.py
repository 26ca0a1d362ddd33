"""Images in, latents out: sources, encoders and the one latent store."""
