"""Estimators over samples, and their intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAJORITY_DRAWS = 64


def pass_at_k(right: np.ndarray, k: int) -> np.ndarray:
    """Unbiased pass@k of each problem: 1 − C(n − c, k) / C(n, k) (Chen et al., arXiv 2107.03374, eqn. 1).

    Args:
        right: (P, n) whether each of n samples is right; c of them are.
    """
    n = right.shape[1]
    wrong = n - right.sum(1)
    # C(n − c, k) / C(n, k) as a product of k factors, which stays in range for any n.
    factors = np.clip((wrong[:, None] - np.arange(k)) / (n - np.arange(k)), 0, None)  # (P, k)
    return 1.0 - factors.prod(1)


def maj_at_k(answers: Sequence[Sequence[str]], right: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Chance of each problem (P,) that the most frequent of k answers is right; ties are broken evenly.

    For k = n this is exact. For smaller k it is the mean over random subsets of the samples, the same for all
    problems and runs.
    """
    n = right.shape[1]
    if k == n:
        return np.array([_majority(row, ok) for row, ok in zip(answers, right, strict=True)])
    rng = np.random.default_rng(seed)
    subsets = [rng.choice(n, k, replace=False) for _ in range(MAJORITY_DRAWS)]
    return np.array(
        [
            np.mean([_majority([row[i] for i in subset], ok[subset]) for subset in subsets])
            for row, ok in zip(answers, right, strict=True)
        ]
    )


def _majority(answers: Sequence[str], right: np.ndarray) -> float:
    votes: dict[str, list[bool]] = defaultdict(list)
    for answer, ok in zip(answers, right, strict=True):
        votes[answer].append(bool(ok))
    most = max(map(len, votes.values()))
    winners = [np.mean(group) for group in votes.values() if len(group) == most]
    return float(np.mean(winners))


def bootstrap_ci(values: np.ndarray, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean over problems (P,)."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(resamples, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """A mean over problems.

    Attributes:
        ci95: Bootstrap interval over problems.
        n: Problems.
    """

    value: float
    ci95: tuple[float, float]
    n: int

    @classmethod
    def of(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """Of values (P,), at least one; booleans give a share."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), bootstrap_ci(values, resamples, seed), len(values))
