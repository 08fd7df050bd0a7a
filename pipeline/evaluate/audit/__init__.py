"""Whether answers are made of the latents, and what the latents say."""
