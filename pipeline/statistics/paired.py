"""Paired comparison of two models, and the accuracy of guesses."""

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
        p: Two-sided p-value of the exact McNemar test; None unless all values are 0 or 1.
        only_a: Problems that only A has right; None where `p` is None.
        only_b: Problems that only B has right; None where `p` is None.
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
    """Exact McNemar test: the two-sided p-value of the disagreements of two models under a fair coin."""
    return float(binomtest(only_b, only_a + only_b).pvalue) if only_a + only_b else 1.0


def guess_floor(answers: Sequence[str], k: int) -> float:
    """pass@k of k guesses drawn from the distribution q of the answers: Σ_a q_a (1 − (1 − q_a)^k).

    Args:
        answers: The right answer of each problem. If problems have several, guesses are right more often than this.
    """
    shares = np.array(list(Counter(answers).values())) / len(answers)
    return float((shares * (1 - (1 - shares) ** k)).sum())
