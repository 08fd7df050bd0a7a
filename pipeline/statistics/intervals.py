"""95% intervals over problems: of shares, of paired differences, of any mean, and of an AUROC.

A bootstrap knows only the values it was given. Where all of them are equal its interval is a point, which 20 right
answers of 20 do not warrant. So shares of right or wrong answers have Wilson's interval, which is none where it should
not be; other values that are known to lie between two ends are resampled together with one more problem at either end,
as Agresti and Min (Statistics in Medicine 24, 2005) add pairs to a paired difference. These two stand for what a sample
has not shown, and weigh 2 / (n + 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest  # type: ignore[import-untyped]

from .at_k import auroc

Interval = tuple[float, float]


def wilson_ci(hits: int, count: int) -> Interval:
    """Wilson's score interval of a share."""
    found = binomtest(hits, count).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def share_ci(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Of the mean of values (P,) between 0 and 1: Wilson's where each is 0 or 1, else the bootstrap with both ends."""
    if np.isin(values, [0, 1]).all():
        return wilson_ci(int(values.sum()), len(values))
    return _bootstrap(np.append(values, [0.0, 1.0]), resamples, seed)


def difference_ci(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Of the mean of paired differences (P,) of two shares, each between −1 and 1: the bootstrap with both ends."""
    return _bootstrap(np.append(values, [-1.0, 1.0]), resamples, seed)


def auroc_ci(values: np.ndarray, right: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Of `auroc`, by the bootstrap with a right and a wrong problem more at either end of the values.

    NaN where all problems (P,) are right or all are wrong.
    """
    if np.isnan(auroc(values, right)):
        return float("nan"), float("nan")
    low, high = values.min(), values.max()
    values, right = np.append(values, [low, low, high, high]), np.append(right, [0.0, 1.0, 0.0, 1.0])
    found = np.array([auroc(values[rows], right[rows]) for rows in _resampled(len(values), resamples, seed)])
    return _percentiles(found[~np.isnan(found)])


def _bootstrap(values: np.ndarray, resamples: int, seed: int) -> Interval:
    """Percentile interval of the mean of values (P,)."""
    return _percentiles(values[_resampled(len(values), resamples, seed)].mean(1))


def _resampled(count: int, resamples: int, seed: int) -> np.ndarray:
    """(resamples, P) problems drawn with replacement."""
    return np.random.default_rng(seed).integers(count, size=(resamples, count))


def _percentiles(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class Mean:
    """A mean over problems.

    Attributes:
        ci95: Interval over problems.
        n: Problems.
    """

    value: float
    ci95: Interval
    n: int

    @classmethod
    def share(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """Of values (P,) between 0 and 1, at least one: right or wrong, or a share of each problem."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), share_ci(values, resamples, seed), len(values))

    @classmethod
    def difference(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """Of paired differences (P,) of two such values."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), difference_ci(values, resamples, seed), len(values))

    @classmethod
    def plain(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """Of values (P,) without ends, such as bits: the plain bootstrap."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), _bootstrap(values, resamples, seed), len(values))
