"""The rows that RL trains on, the settings of its rollouts and its trainer's arguments, checked before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig

from ....data.answer_formats import HASH
from ....data.errors import DataError
from ....data.problem import Problem
from ...latent.noise import parse_noise
from ...recipe.load import RecipeError
from ...recipe.schema import Recipe, RLSection
from ..trainer_config import trainer_config
from .estimators import Estimator, EstimatorError, check_estimator, parse_estimator
from .rollouts import ROLLOUTS, RolloutSettings, check_rollouts

# Fields of GRPOConfig, and the values with which there may be actions beside tokens. The first is the default.
FIT_ACTIONS: dict[str, tuple[Any, ...]] = {
    "importance_sampling_level": ("token",),
    "top_entropy_quantile": (1.0,),
    "off_policy_mask_threshold": (None,),
    "loss_type": ("dapo", "dr_grpo", "cispo"),  # the others divide by the number of actions
}
TRL_COLUMNS = {
    "prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
    "image", "images", "environment",
}  # fmt: skip


def rl_rows(problems: list[Problem], num_latents: int, answer_format: str = HASH.name) -> list[dict[str, Any]]:
    """Rows of the RL dataset; all columns but `prompt` reach the reward functions.

    Raises:
        DataError: An extra column with a name that TRL keeps for itself.
    """
    extra = dict.fromkeys(name for problem in problems for name in problem.extra)
    taken = sorted(TRL_COLUMNS & extra.keys())
    if taken:
        raise DataError(f"The training data has columns {taken}, names that TRL keeps for itself. Rename them.")
    return [
        {
            **{name: problem.extra.get(name) for name in extra},
            "prompt": problem.question,
            "question": problem.question,
            "steps": list(problem.steps),
            "answer": problem.answer,
            "answer_format": answer_format,
            "num_latents": num_latents,
        }
        for problem in problems
    ]


@dataclass(frozen=True)
class RowCollator:
    """Turns row numbers into rows.

    TRL shuffles and repeats a dataset of numbers. The rows themselves cannot lie in that dataset: an Arrow table gives
    all objects of a column the same keys, integers 64 bits, and a column one type. Each row is given as a copy, which
    its reader may change.
    """

    rows: Sequence[dict[str, Any]]

    def __call__(self, batch: Sequence[Mapping[str, int]]) -> list[dict[str, Any]]:
        return [deepcopy(self.rows[item["row"]]) for item in batch]

    def numbers(self) -> Dataset:
        """The dataset of row numbers, for TRL."""
        return Dataset.from_dict({"row": range(len(self.rows))})


def _check_step_tokens(recipe: Recipe, section: RLSection, estimator: Estimator) -> None:
    if section.step_tokens_weight == 0:
        return
    if recipe.curriculum is not None and recipe.curriculum.supervision != "step_tokens":
        raise RecipeError(
            f"rl.step_tokens_weight={section.step_tokens_weight} keeps the labels that curriculum.supervision="
            f"step_tokens put on latents, but it is {recipe.curriculum.supervision}. Change one of the two."
        )
    if estimator.replay == 0:
        raise EstimatorError(
            f"rl.step_tokens_weight needs latents that are made again, which the estimator {estimator.name} does not. "
            "Set rl.estimator=replay or a mix."
        )


def check_stops(section: RLSection) -> None:
    """Makes sure that the decisions of a stop head can be actions of rollouts.

    Raises:
        EstimatorError: Options that take every action for a token, or give no unbiased credit to a thought.
    """
    _check_actions(section, "latent.stop_head", "decisions to stop")


def _check_actions(section: RLSection, what: str, actions: str) -> None:
    """Makes sure that options fit actions that are no tokens, and that the answers of a thought share.

    Args:
        what: Has these actions.
    """
    for key, fits in FIT_ACTIONS.items():
        if section.trainer.get(key, fits[0]) not in fits:
            raise EstimatorError(
                f"rl.trainer.{key}={section.trainer[key]} does not fit {what}, whose {actions} are no tokens. Take one "
                f"of {list(fits)}."
            )
    if section.max_at is not None and section.answers_per_thought > 1:
        raise EstimatorError(
            f"rl.max_at with answers_per_thought={section.answers_per_thought} is not known to be unbiased for {what}. "
            "Set one of the two to its default."
        )


def rollout_settings(recipe: Recipe) -> RolloutSettings:
    """How the rollouts of a recipe are drawn and credited.

    Raises:
        UserError: Options that do not fit each other or the trainer's.
    """
    section = recipe.rl
    assert section is not None
    noise, estimator = parse_noise(section.noise), parse_estimator(section.estimator)
    check_estimator(estimator, noise, recipe.latent.mode)
    if recipe.latent.stop_head:
        check_stops(section)
    _check_step_tokens(recipe, section, estimator)
    trainer = section.trainer
    group = trainer.get("num_generations", GRPOConfig.num_generations)
    thoughts = section.answers_per_thought * (2 if section.antithetic else 1)
    if group % thoughts:
        raise EstimatorError(
            f"rl.trainer.num_generations={group} must be a multiple of {thoughts} (answers_per_thought, twice that if "
            "antithetic)."
        )
    shares = section.answers_per_thought > 1 and not recipe.latent.stop_head  # which makes thoughts differ in length
    if noise is None and (section.antithetic or shares):
        raise EstimatorError(
            "Without rl.noise all thoughts of a question are equal. Remove rl.antithetic and rl.answers_per_thought."
        )
    if section.max_at is not None and not 1 <= section.max_at < group:
        raise EstimatorError(f"rl.max_at={section.max_at} must lie between 1 and {group - 1}, below num_generations.")
    if estimator.uses_density:
        _check_actions(section, f"the estimator {estimator.name}", "latents")
    return RolloutSettings(
        noise,
        estimator,
        section.answers_per_thought,
        section.antithetic,
        section.max_at,
        section.equal_groups,
        replace(ROLLOUTS, tokens=section.rollout_batch_tokens),
    )


def check_batch(section: RLSection, args: GRPOConfig) -> None:
    """Makes sure that a process draws whole thoughts, and whole pairs of mirrored thoughts.

    Raises:
        EstimatorError: Its batch would cut one.
    """
    assert args.steps_per_generation is not None
    rollouts = args.per_device_train_batch_size * args.steps_per_generation
    check_rollouts(rollouts, section.answers_per_thought, section.antithetic)


def grpo_args(recipe: Recipe, folder: Path) -> GRPOConfig:
    section = recipe.rl
    assert section is not None
    if section.trainer.get("temperature", 1.0) <= 0:
        raise RecipeError(
            f"rl.trainer.temperature={section.trainer['temperature']} must be above 0: the likelihood of a greedy "
            "answer has no gradient to learn from."
        )
    args = trainer_config(
        GRPOConfig,
        "rl.trainer",
        section.trainer,
        recipe.seed,
        folder,
        disable_dropout=True,  # TRL samples rollouts in training mode
        reward_weights=[reward.weight for reward in section.rewards],
        trust_remote_code=recipe.model.trust_remote_code,
    )
    _align_saves(args, "save_steps" in section.trainer)
    return args


def steps_between_draws(args: GRPOConfig) -> int:
    """Optimizer steps from one draw of rollouts to the next that falls between two optimizer steps."""
    assert args.steps_per_generation is not None
    cycle = args.steps_per_generation * args.num_iterations  # micro-batches
    return cycle // math.gcd(cycle, args.gradient_accumulation_steps)


def _align_saves(args: GRPOConfig, is_given: bool) -> None:
    """Moves checkpoints to optimizer steps before which new rollouts are drawn.

    Rollouts are not saved. A run that resumed from a checkpoint in the middle of a draw would draw new rollouts and end
    with other weights.

    Args:
        is_given: The recipe sets save_steps, so it may not be changed.

    Raises:
        RecipeError: The given save_steps falls into the middle of a draw.
    """
    steps = steps_between_draws(args)
    if steps == 1 or args.save_strategy == "no":
        return
    if not is_given:
        args.save_steps = steps * math.ceil(args.save_steps / steps)
    if args.save_strategy != "steps" or args.save_steps % steps:
        raise RecipeError(
            f"Rollouts are drawn every {steps} steps (rl.trainer: steps_per_generation, num_iterations) and are not "
            f"saved, so a run could not go on from checkpoints in between. Set rl.trainer.save_steps to a multiple of "
            f"{steps}, with save_strategy: steps."
        )
