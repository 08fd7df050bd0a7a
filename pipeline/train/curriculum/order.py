"""Which level a curriculum trains next: the one above, the one below again (a step back), or none.

A level's own end, and whether it is promoted, is in `promotion.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rules:
    """When a curriculum stops or steps back.

    Attributes:
        stop_at_limit: A level that ends below its threshold ends the curriculum.
        step_back_at: A level is trained again if the accuracy on it, measured at the end of the level above, is lower
            than this. None: never.
        max_step_backs: How often a level may be trained again.
    """

    stop_at_limit: bool
    step_back_at: float | None = None
    max_step_backs: int = 1


def next_level(visits: Sequence[dict[str, Any]], num_levels: int, rules: Rules) -> int | None:
    """Index of the level to train next, or None when the curriculum is over.

    Args:
        visits: Reports of the visits so far, in order. Read here: `level`, `promoted`, `target` (the threshold, or
            None), and `earlier`, the accuracy on the level below, or None if it was not measured.
    """
    if not visits:
        return 1
    latest = visits[-1]
    if is_stopped(visits, rules):
        return None
    level, earlier = latest["level"], latest["earlier"]
    if rules.step_back_at is not None and earlier is not None and earlier < rules.step_back_at:
        times = sum(visit["level"] == level - 1 for visit in visits)
        if times <= rules.max_step_backs:
            return level - 1
    return level + 1 if level < num_levels else None


def is_stopped(visits: Sequence[dict[str, Any]], rules: Rules) -> bool:
    """Whether the latest visit missed its threshold and the curriculum ends there."""
    latest = visits[-1]
    return rules.stop_at_limit and latest["target"] is not None and not latest["promoted"]


def best_visit(visits: Sequence[dict[str, Any]]) -> int | None:
    """Place in `visits` of the weights that a stopped curriculum keeps: the last visit of the highest promoted level.

    None if no level was promoted.
    """
    promoted = [place for place, visit in enumerate(visits) if visit["promoted"]]
    return max(promoted, key=lambda place: (visits[place]["level"], place), default=None)
