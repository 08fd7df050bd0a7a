"""Trainer arguments of curriculum levels, and how many optimizer steps each level may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from accelerate import PartialState
from transformers import TrainingArguments
from trl import GRPOConfig

from ...problems.schedule import Level
from ...recipe.load import RecipeError
from ...recipe.schema import Recipe
from ..trainer_config import check_trainer_keys, trainer_config


def curriculum_args(recipe: Recipe, folder: Path, is_last: bool = False) -> TrainingArguments:
    """Trainer arguments of a level. Those of the last level may differ (`last_level_trainer`).

    Raises:
        RecipeError: Keys or values that cannot be trained with, or no limit.
    """
    section = recipe.curriculum
    assert section is not None
    values, own = dict(section.trainer), section.last_level_trainer if is_last else {}
    if "num_train_epochs" in own:  # a limit in epochs for the last level replaces a limit in steps for all
        values.pop("max_steps", None)
    check_trainer_keys(TrainingArguments, "curriculum.trainer", section.trainer)
    check_trainer_keys(TrainingArguments, "curriculum.last_level_trainer", own)
    values = {key: value for key, value in {**values, **own}.items() if value is not None}
    if "train_sampling_strategy" in values:
        raise RecipeError(
            f"curriculum.trainer.train_sampling_strategy={values['train_sampling_strategy']} would mix the passes over "
            "the problems, each of which the curriculum shuffles by itself. Remove the key."
        )
    args = trainer_config(
        TrainingArguments,
        "curriculum.last_level_trainer" if own else "curriculum.trainer",
        values,
        recipe.seed,
        folder,
        train_sampling_strategy="sequential",  # `LevelDataset` shuffles by itself
        ddp_find_unused_parameters=True,  # rows without latents do not use the modules that make and help latents
    )
    if args.max_steps <= 0 and "num_train_epochs" not in values:
        raise RecipeError(
            "curriculum.trainer has neither max_steps nor num_train_epochs: the limit of each curriculum level."
        )
    return args


def set_rl_batch(args: TrainingArguments, recipe: Recipe) -> None:
    """Sets the batch such that an optimizer step has as many samples as one of RL has rollouts."""
    assert recipe.rl is not None
    trainer = recipe.rl.trainer
    args.per_device_train_batch_size = trainer.get(
        "per_device_train_batch_size", GRPOConfig.per_device_train_batch_size
    )
    args.gradient_accumulation_steps = trainer.get("gradient_accumulation_steps", 1)


def items_per_step(args: TrainingArguments) -> int:
    """Problems of one optimizer step, over all processes."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * PartialState().num_processes


def step_limit(args: TrainingArguments, num_problems: int) -> int:
    """The most optimizer steps of a level. `max_steps` overrides `num_train_epochs`, as in Transformers."""
    return (
        args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * num_problems / items_per_step(args))
    )


def level_limits(recipe: Recipe, levels: Sequence[Level], num_problems: int) -> list[int]:
    """The most optimizer steps of each level of the arm `latent`."""
    return [
        step_limit(curriculum_args(recipe, recipe.folder, is_last=level is levels[-1]), num_problems)
        for level in levels
    ]
