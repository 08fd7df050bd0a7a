"""The arms of the curriculum: `latent`, and the controls, which share its data, supervision and limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ....data.errors import DataError
from ....data.problem import Problem
from ...problems.schedule import Level, plan_levels
from ...recipe.schema import Recipe


@dataclass(frozen=True)
class Arm:
    """How an arm differs from `latent`.

    Attributes:
        after: The stage whose weights it starts from: `sft`, `base` (the model before sft) or `curriculum`.
        thought_source: Replaces the recipe's.
        levels: The levels it trains: "all"; "last": the last one only; "text": text chain of thought; "answer":
            question -> answer without latents.
        as_rl: It takes as many optimizer steps as RL, of as many samples each, whatever accuracy it reaches.
    """

    after: str = "sft"
    thought_source: str | None = None
    levels: str = "all"
    as_rl: bool = False

    def plan(self, levels: Sequence[Level]) -> list[Level]:
        """The levels of this arm.

        Args:
            levels: Those of the arm `latent`.
        """
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
    """The levels of the arm `latent`.

    Args:
        most_steps: Steps of the longest training problem.

    Raises:
        DataError: No problem has steps, or `steps_per_level` leaves some in the last level.
    """
    section = recipe.curriculum
    assert section is not None
    if most_steps == 0:
        raise DataError("No training problem has steps, so there is nothing to make latent. Remove the curriculum.")
    latent = recipe.latent
    most = None if latent.latents_per_step == "auto" else latent.max_latents
    return plan_levels(most_steps, latent.block_size, section.steps_per_level, most)


def most_steps(problems: Sequence[Problem]) -> int:
    """Steps of the longest problem."""
    return max(len(problem.steps) for problem in problems)
