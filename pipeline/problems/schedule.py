"""The levels of a curriculum (Coconut, arXiv 2412.06769, section 3).

Level 0 is text chain of thought: question, steps, answer. From level to level latents replace more steps, from the
first one on. The last level has no text steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...data.errors import DataError


@dataclass(frozen=True)
class Level:
    """One level of the curriculum.

    Attributes:
        index: From 0, text chain of thought.
        removed_steps: Text steps that are replaced, from the first on. None: all.
        num_latents: Latents in their place.
    """

    index: int
    removed_steps: int | None
    num_latents: int


# Text chain of thought: nothing is replaced.
TEXT = Level(0, 0, 0)

StepsPerLevel = int | Sequence[int | Literal["all"]]


def plan_levels(
    most_steps: int, latents_per_step: int, steps_per_level: StepsPerLevel = 1, max_latents: int | None = None
) -> list[Level]:
    """The levels after text, until no step is left.

    Args:
        most_steps: Steps of the longest problem.
        latents_per_step: Latents that replace one step (c).
        steps_per_level: Steps that each level replaces. A list has a number for each level; "all" means all that are
            left.
        max_latents: The most latents. Steps still left then go in one more level without more latents, as in Coconut's
            GSM8K schedule.

    Raises:
        DataError: A list leaves steps in the last level.
    """
    levels: list[Level] = []
    removed = 0
    while removed < most_steps:
        full = max_latents is not None and removed * latents_per_step >= max_latents
        if full:
            step: int | str = "all"
        elif isinstance(steps_per_level, int):
            step = steps_per_level
        elif len(levels) < len(steps_per_level):
            step = steps_per_level[len(levels)]
        else:
            raise DataError(
                f"curriculum.steps_per_level={list(steps_per_level)} never removes all steps: the longest problem has "
                f"{most_steps}, and {most_steps - removed} are left after the last level. End the list with all."
            )
        removed = most_steps if step == "all" else min(removed + int(step), most_steps)
        latents = removed * latents_per_step
        levels.append(
            Level(
                len(levels) + 1,
                None if full else removed,
                latents if max_latents is None else min(latents, max_latents),
            )
        )
    return levels
