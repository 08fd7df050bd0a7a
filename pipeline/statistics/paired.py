"""Whether two models differ, and how far guessing gets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from .intervals import difference_ci


@dataclass(frozen=True)
class Difference:
    """A paired difference of means over the same problems, B − A.

    Attributes:
        value: Mean of the differences.
        ci95: Interval over problems, both models on the same resample (`difference_ci`).
        p: Two-sided p-value of the exact McNemar test; None where values are not 0 or 1.
        only_a: Problems that A alone has right; None as for `p`.
        only_b: Problems that B alone has right.
    """

    value: float
    ci95: tuple[float, float]
    p: float | None = None
    only_a: int | None = None
    only_b: int | None = None


def paired_difference(a: np.ndarray, b: np.ndarray, resamples: int, seed: int = 0) -> Difference:
    """Compares values (P,) between 0 and 1 of two models on the same problems."""
    change = b.astype(float) - a.astype(float)
    value, ci95 = float(change.mean()), difference_ci(change, resamples, seed)
    if not np.isin(np.concatenate([a, b]), [0, 1]).all():
        return Difference(value, ci95)
    only_a, only_b = int((change < 0).sum()), int((change > 0).sum())
    return Difference(value, ci95, mcnemar(only_a, only_b), only_a, only_b)


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact McNemar test: two-sided p-value of the problems on which two models disagree under a fair coin."""
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def guess_floor(answers: Sequence[str], k: int) -> float:
    """pass@k of k guesses drawn from the distribution q of the answers: Σ_a q_a (1 − (1 − q_a)^k).

    Args:
        answers: The right answers of the problems. Where a problem has several, guesses hit more often than this says.
    """
    shares = np.array(list(Counter(answers).values())) / len(answers)
    return float((shares * (1 - (1 - shares) ** k)).sum())
