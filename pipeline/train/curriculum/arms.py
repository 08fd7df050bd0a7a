"""The arms of the curriculum: latents, and the controls that share their data, supervision and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....data.errors import DataError
from ....data.problem import Problem
from ...problems.schedule import Level, plan_levels
from ...recipe.schema import Recipe


@dataclass(frozen=True)
class Arm:
    """How an arm differs from training latents.

    Attributes:
        after: The stage of the run it starts from: `sft`, `base` for the model before it, or `curriculum`.
        thought_source: In place of the recipe's.
        levels: Which levels it trains: all, the last one only, none but text, or question -> answer without latents.
            An arm with one level may use the step limits of all.
        as_rl: It takes as many steps as RL, on as many samples each, whatever accuracy it reaches.
    """

    after: str = "sft"
    thought_source: str | None = None
    levels: str = "all"
    as_rl: bool = False

    def plan(self, levels: Sequence[Level]) -> list[Level]:
        """The arm's levels, of those that latents go through."""
        if self.levels == "last":
            return [Level(1, None, levels[-1].num_latents)]
        if self.levels == "text":
            return [Level(1, 0, 0)]
        if self.levels == "answer":
            return [Level(1, None, 0)]
        return list(levels)


LATENT = "latent"
ARMS = {
    LATENT: Arm(),
    "text_cot": Arm(levels="text"),
    "no_cot": Arm(after="base", levels="answer"),
    "pause": Arm(thought_source="pause"),
    "pause_multi": Arm(thought_source="pause_multi"),
    "no_curriculum": Arm(levels="last"),
    "more_supervised": Arm(after="curriculum", levels="last", as_rl=True),
}


def latent_levels(recipe: Recipe, most_steps: int) -> list[Level]:
    """The levels that a recipe plans for latents.

    Raises:
        DataError: No problem has steps, or the schedule leaves some.
    """
    section = recipe.curriculum
    assert section is not None
    if most_steps == 0:
        raise DataError("No training problem has steps, so there is nothing to make latent. Remove the curriculum.")
    return plan_levels(most_steps, recipe.latent.latents_per_step, section.steps_per_level, recipe.latent.max_latents)


def most_steps(problems: Sequence[Problem]) -> int:
    """Steps of the longest problem."""
    return max(len(problem.steps) for problem in problems)
