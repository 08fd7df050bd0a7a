"""The forward passes over latents, exact and cached."""
