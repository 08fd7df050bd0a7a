"""Intervals: that they cover as often as they say, by exact enumeration, and by hand."""

from math import comb, sqrt

import numpy as np
import pytest
from scipy.stats import binom, multinomial

from neuralese.pipeline.statistics.intervals import Mean, auroc_ci, difference_ci, share_ci, wilson_ci

RESAMPLES = 1000


@pytest.mark.parametrize(("share", "least"), [(0.5, 0.94), (0.9, 0.93), (0.99, 0.92), (0.999, 0.90)])
def test_intervals_of_shares_cover_by_exact_enumeration(share, least):
    """Of 100 problems; the percentile bootstrap covers 0.63 at 0.99, as all are right in 0.37 of the samples."""
    covered = 0.0
    for hits in range(101):
        low, high = share_ci(np.arange(100) < hits, RESAMPLES)
        covered += comb(100, hits) * share**hits * (1 - share) ** (100 - hits) * (low <= share <= high)
    assert covered >= least


def test_wilson_by_hand():
    z = 1.959964
    for hits, n in ((20, 20), (0, 20), (300, 1000)):
        p = hits / n
        middle, half = (p + z * z / 2 / n), z * sqrt(p * (1 - p) / n + z * z / 4 / n**2)
        ends = [(middle + sign * half) / (1 + z * z / n) for sign in (-1, 1)]
        assert share_ci(np.arange(n) < hits, 7) == wilson_ci(hits, n) == pytest.approx(ends, abs=1e-6)
    assert wilson_ci(20, 20) == pytest.approx((0.838875, 1.0), abs=1e-6)


def test_shares_that_lie_near_an_end_are_covered():
    """pass@1 of problems of which one in 50 is never right and most always are: the plain bootstrap covers 0.63."""
    values, chances = np.array([1.0, 15 / 16, 0.0]), [0.97, 0.02, 0.01]
    true = float(values @ chances)
    covered = 0.0
    for always, often in ((a, o) for o in range(8) for a in range(88, 101 - o)):
        counts = [always, often, 100 - always - often]
        low, high = share_ci(np.repeat(values, counts), 300)
        covered += multinomial.pmf(counts, 100, chances) * (low <= true <= high)
    assert covered > 0.95


@pytest.mark.parametrize("gain", [0.03, 0.3])
def test_intervals_of_paired_differences_cover_by_exact_enumeration(gain):
    """A model that is right where the other is, and on a few of 100 problems more."""
    covered = sum(
        binom.pmf(more, 100, gain) * (low <= gain <= high)
        for more in range(101)
        for low, high in [difference_ci((np.arange(100) < more).astype(float), RESAMPLES)]
    )
    assert covered > 0.94


def test_equal_models_differ_by_as_much_as_was_not_seen():
    for n in (10, 100, 1000):
        low, high = difference_ci(np.zeros(n), 4000)
        assert -low == pytest.approx(high, abs=1.1 / n) and 1.9 / (n + 2) < high < 4.1 / (n + 2)


def test_a_bootstrap_of_many_is_the_normal_interval():
    values = np.random.default_rng(0).choice([0.25, 0.75], size=1000)
    half = 1.96 * 0.25 / 1000**0.5
    assert share_ci(values, 4000) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)
    low, high = Mean.plain(values + 100, 4000).ci95
    assert (low - 100, high - 100) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.002)


def test_means_carry_their_interval_and_count():
    hits = np.arange(50) < 20
    assert Mean.share(hits, 300, 4) == Mean(0.4, wilson_ci(20, 50), 50)
    halves = hits / 2
    assert Mean.share(halves, 300, 4) == Mean(0.2, share_ci(halves, 300, 4), 50)
    assert share_ci(halves, 300, 4) == share_ci(halves, 300, 4) != share_ci(halves, 300, 5)
    assert Mean.difference(hits - 0.5, 300, 4) == Mean(pytest.approx(-0.1), difference_ci(hits - 0.5, 300, 4), 50)


def test_an_auroc_of_few_problems_is_not_known_to_be_one():
    values, right = np.linspace(0, 1, 20), np.arange(20) >= 10
    low, high = auroc_ci(values, right.astype(float), 2000)
    assert 0.6 < low < 0.9 and high == 1.0
    assert np.isnan(auroc_ci(values, np.ones(20), 100)).all()
    rng = np.random.default_rng(0)
    right = rng.random(2000) < 0.5  # values that say nothing: 1/2 ± 1.96 √((1000 + 1000) / (12 · 1000 · 1000))
    low, high = auroc_ci(rng.random(2000), right.astype(float), 400)
    assert high - low == pytest.approx(2 * 1.96 * (2000 / 12e6) ** 0.5, rel=0.2)
