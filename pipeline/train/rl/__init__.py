"""Reinforcement learning: GRPO and PPO over latents."""
