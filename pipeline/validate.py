"""What can be checked of a recipe before any training."""

from __future__ import annotations

from dataclasses import fields

from peft import LoraConfig
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from ..rewards.loading import load_reward
from .latent.noise import parse_noise
from .latent.thoughts import THOUGHT_SOURCES
from .recipe import Recipe, RecipeError, nearest
from .train.curriculum import curriculum_args
from .train.grpo import grpo_args
from .train.sft import sft_args

TRAINER_ARGS = {"sft": sft_args, "curriculum": curriculum_args, "rl": grpo_args}


def check_recipe(recipe: Recipe) -> None:
    """Checks everything that can be checked without data or weights, so that no error waits behind hours of training.

    Raises:
        UserError: Trainer keys or values that a config class refuses, an unknown thought source, noise, reward or
            scorer.
    """
    for stage, build in TRAINER_ARGS.items():
        if getattr(recipe, stage) is not None:
            build(recipe, recipe.folder / stage)
    unset_hf_deepspeed_config()  # building a config under ZeRO-3 makes every model that is loaded later sharded
    source = recipe.latent.thought_source
    if source not in THOUGHT_SOURCES:
        raise RecipeError(f"Unknown latent.thought_source {source!r}{nearest(source, list(THOUGHT_SOURCES))}")
    for sampling in recipe.evaluate.sampling:
        if parse_noise(sampling.noise) is None and sampling.temperature == 0:
            raise RecipeError("evaluate.sampling: noise of scale 0 and temperature 0 make all samples equal.")
    for key in recipe.model.lora or {}:
        known = [field.name for field in fields(LoraConfig)]
        if key not in known:
            raise RecipeError(f"unknown key 'model.lora.{key}'{nearest(key, known)}")
    load_reward(recipe.evaluate.scorer)
    if recipe.rl is not None:
        parse_noise(recipe.rl.noise)
        for reward in recipe.rl.rewards:
            load_reward(reward.function)
