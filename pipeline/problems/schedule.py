"""The curriculum's schedule, without tensors: which stages there are, and which one comes next.

Stage 0 is text chain of thought: question, steps, answer. At stage k (Coconut, arXiv 2412.06769, section 3) the first
steps are replaced by latents. The last stage drops all steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ...data.errors import DataError


@dataclass(frozen=True)
class Stage:
    """One stage of the curriculum.

    Attributes:
        index: 0 is text chain of thought.
        removed_steps: Text steps dropped from the front; None: all of them.
        num_latents: Latents in their place.
    """

    index: int
    removed_steps: int | None
    num_latents: int


# Text chain of thought: nothing is replaced.
TEXT = Stage(0, 0, 0)

StepsPerStage = int | Sequence[int | Literal["all"]]


def plan_stages(
    most_steps: int, latents_per_step: int, steps_per_stage: StepsPerStage = 1, max_latents: int | None = None
) -> list[Stage]:
    """Stages after text: more steps become latent at each, until none is left.

    Args:
        most_steps: Steps of the longest problem.
        latents_per_step: Latents that replace one step (c).
        steps_per_stage: Steps that each stage removes; a list says it stage by stage, "all" being all that are left.
        max_latents: Add no more latents than these; the steps still left then go in one more stage, as in Coconut's
            GSM8K schedule.

    Raises:
        DataError: A list that leaves steps in the last stage.
    """
    stages: list[Stage] = []
    removed = 0
    while removed < most_steps:
        full = max_latents is not None and removed * latents_per_step >= max_latents
        if full:
            step: int | str = "all"
        elif isinstance(steps_per_stage, int):
            step = steps_per_stage
        elif len(stages) < len(steps_per_stage):
            step = steps_per_stage[len(stages)]
        else:
            raise DataError(
                f"curriculum.steps_per_stage={list(steps_per_stage)} never removes all steps: the longest problem has "
                f"{most_steps}, and {most_steps - removed} are left after the last stage. End the list with all."
            )
        removed = most_steps if step == "all" else min(removed + int(step), most_steps)
        latents = removed * latents_per_step
        stages.append(
            Stage(
                len(stages) + 1,
                None if full else removed,
                latents if max_latents is None else min(latents, max_latents),
            )
        )
    return stages
