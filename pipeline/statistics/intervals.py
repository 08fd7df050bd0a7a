"""95% intervals over problems: of shares, of paired differences, of any mean, and of an AUROC.

A bootstrap of equal values has an interval of width 0, which 20 right answers of 20 do not warrant. So shares of right
answers have Wilson's interval. Other values that lie between two known ends are resampled together with one more
problem at each end, as Agresti and Min (Statistics in Medicine 24, 2005) add pairs to a paired difference. These two
problems stand for what the sample has not shown. They weigh 2 / (n + 2).
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
    """Interval of the mean of values (P,) in [0, 1]: Wilson's if all are 0 or 1, else the bootstrap with both ends."""
    if np.isin(values, [0, 1]).all():
        return wilson_ci(int(values.sum()), len(values))
    return _bootstrap(np.append(values, [0.0, 1.0]), resamples, seed)


def difference_ci(values: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Interval of the mean of paired differences (P,) in [−1, 1]: the bootstrap with both ends."""
    return _bootstrap(np.append(values, [-1.0, 1.0]), resamples, seed)


def auroc_ci(values: np.ndarray, right: np.ndarray, resamples: int, seed: int = 0) -> Interval:
    """Interval of `auroc`: the bootstrap with one more right and one more wrong problem at each end of the values.

    NaN if all problems (P,) are right or all are wrong.
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
        ci95: 95% interval over problems.
        n: Number of problems.
    """

    value: float
    ci95: Interval
    n: int

    @classmethod
    def share(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """The mean of values (P,) in [0, 1]: right or wrong, or a share for each problem. There is at least one."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), share_ci(values, resamples, seed), len(values))

    @classmethod
    def difference(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """The mean of paired differences (P,) of such values."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), difference_ci(values, resamples, seed), len(values))

    @classmethod
    def plain(cls, values: np.ndarray, resamples: int, seed: int = 0) -> Mean:
        """The mean of values (P,) without known ends, such as bits: the plain bootstrap."""
        values = np.asarray(values, dtype=np.float64)
        return cls(float(values.mean()), _bootstrap(values, resamples, seed), len(values))
