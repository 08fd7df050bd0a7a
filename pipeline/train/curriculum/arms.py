"""The arms of the curriculum: latents, and the controls that share their data, supervision and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....data.errors import DataError
from ....data.problem import Problem
from ...problems.schedule import Stage, plan_stages
from ...recipe.schema import Recipe


@dataclass(frozen=True)
class Arm:
    """How an arm differs from training latents.

    Attributes:
        after: The stage of the run it starts from: `sft`, `base` for the model before it, or `curriculum`.
        thought_source: In place of the recipe's.
        stages: Which stages it trains: all, the last one only, none but text, or question -> answer without latents.
            An arm with one stage may use the step limits of all.
        as_rl: It takes as many steps as RL, on as many samples each, whatever accuracy it reaches.
    """

    after: str = "sft"
    thought_source: str | None = None
    stages: str = "all"
    as_rl: bool = False

    def plan(self, stages: Sequence[Stage]) -> list[Stage]:
        """The arm's stages, of those that latents go through."""
        if self.stages == "last":
            return [Stage(1, None, stages[-1].num_latents)]
        if self.stages == "text":
            return [Stage(1, 0, 0)]
        if self.stages == "answer":
            return [Stage(1, None, 0)]
        return list(stages)


LATENT = "latent"
ARMS = {
    LATENT: Arm(),
    "text_cot": Arm(stages="text"),
    "no_cot": Arm(after="base", stages="answer"),
    "pause": Arm(thought_source="pause"),
    "pause_multi": Arm(thought_source="pause_multi"),
    "no_curriculum": Arm(stages="last"),
    "more_supervised": Arm(after="curriculum", stages="last", as_rl=True),
}


def latent_stages(recipe: Recipe, most_steps: int) -> list[Stage]:
    """The stages that a recipe plans for latents.

    Raises:
        DataError: No problem has steps, or the schedule leaves some.
    """
    section = recipe.curriculum
    assert section is not None
    if most_steps == 0:
        raise DataError("No training problem has steps, so there is nothing to make latent. Remove the curriculum.")
    return plan_stages(most_steps, recipe.latent.latents_per_step, section.steps_per_stage, recipe.latent.max_latents)


def most_steps(problems: Sequence[Problem]) -> int:
    """Steps of the longest problem."""
    return max(len(problem.steps) for problem in problems)


def step_limits(per_stage: Sequence[int], planned: Sequence[Stage]) -> list[int]:
    """Step limits of an arm's stages; an arm with one stage gets those of all latent stages together.

    Args:
        per_stage: Limits of the stages that latents go through.
        planned: The stages of the arm.
    """
    return list(per_stage) if len(planned) == len(per_stage) else [sum(per_stage)]
