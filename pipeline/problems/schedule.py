"""The curriculum's schedule, without tensors: which levels there are, and which one comes next.

Level 0 is text chain of thought: question, steps, answer. At level k (Coconut, arXiv 2412.06769, section 3) the first
steps are replaced by latents. The last level drops all steps.
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
        index: 0 is text chain of thought.
        removed_steps: Text steps dropped from the front; None: all of them.
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
    """Levels after text: more steps become latent at each, until none is left.

    Args:
        most_steps: Steps of the longest problem.
        latents_per_step: Latents that replace one step (c).
        steps_per_level: Steps that each level removes; a list says it level by level, "all" being all that are left.
        max_latents: Add no more latents than these; the steps still left then go in one more level, as in Coconut's
            GSM8K schedule.

    Raises:
        DataError: A list that leaves steps in the last level.
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
