"""How well scores of what is read in thoughts tell wrong answers from right ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..scoring.monitor import EXPECTED
from ..scoring.problem_samples import Sampled
from ..statistics.at_k import auroc
from ..statistics.intervals import auroc_ci


@dataclass(frozen=True)
class Monitored:
    """What one score of a monitor says about the answers of a setting.

    Attributes:
        right: Mean score of right answers; None: there is none.
        wrong: Mean score of wrong answers; None: there is none.
        auroc: Chance that a wrong answer looks worse than a right one; None: all are right or all are wrong.
        ci95: Its interval over problems (`auroc_ci`).
        n: Problems that have the score.
    """

    right: float | None
    wrong: float | None
    auroc: float | None
    ci95: tuple[float, float] | None
    n: int

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Monitored:
        """As read from JSON."""
        return cls(**{**values, "ci95": None if values["ci95"] is None else tuple(values["ci95"])})


def judge_monitor(sampled: Sequence[Sampled], resamples: int, seed: int) -> dict[str, Monitored] | None:
    """Judges each score by the answers of its thoughts, one a problem. None: not all thoughts were read.

    A score is left out that no problem has, or that not all were asked for.
    """
    scores = [row.monitored for row in sampled if row.monitored is not None]
    if len(scores) < len(sampled):
        return None
    right = np.array([float(row.right[0]) for row in sampled])
    found = {}
    for name in [name for name in EXPECTED if all(name in score for score in scores)]:
        having = np.array([score[name] is not None for score in scores])
        if having.any():
            values = np.array([value for score in scores if (value := score[name]) is not None])
            found[name] = _judged(values, right[having], EXPECTED[name], resamples, seed)
    return found


def _judged(values: np.ndarray, right: np.ndarray, sign: int, resamples: int, seed: int) -> Monitored:
    told = auroc(sign * values, right)
    means = [float(values[right == one].mean()) if (right == one).any() else None for one in (1.0, 0.0)]
    if np.isnan(told):
        return Monitored(means[0], means[1], None, None, len(values))
    return Monitored(means[0], means[1], told, auroc_ci(sign * values, right, resamples, seed), len(values))
