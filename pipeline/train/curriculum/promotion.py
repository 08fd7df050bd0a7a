"""When a level of the curriculum is promoted, trained again, or the last one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rules:
    """When a curriculum goes on, steps back or stops.

    Attributes:
        stop_at_limit: A level that ends below its threshold ends the curriculum.
        step_back_at: Below this accuracy on the level before, that level is trained again; None: never.
        max_step_backs: Times a level may be trained again.
    """

    stop_at_limit: bool
    step_back_at: float | None = None
    max_step_backs: int = 1


def next_level(visits: Sequence[dict[str, Any]], num_levels: int, rules: Rules) -> int | None:
    """Index of the level to train next, or None when the curriculum is over.

    Args:
        visits: Reports of the levels trained so far, in order: `level`, `promoted`, `target`, and `earlier`, the
            accuracy measured on the level before, or None.
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
    """Whether the latest level missed its threshold, and the curriculum ends there."""
    latest = visits[-1]
    return rules.stop_at_limit and latest["target"] is not None and not latest["promoted"]


def best_visit(visits: Sequence[dict[str, Any]]) -> int | None:
    """Place of the visit whose weights are kept where the curriculum was stopped: the highest level that was promoted.

    None: no level was.
    """
    promoted = [place for place, visit in enumerate(visits) if visit["promoted"]]
    return max(promoted, key=lambda place: (visits[place]["level"], place), default=None)
