"""What latents are trained to hold, beyond the answer that follows them."""
