"""Paired tests and the guess floor, against enumeration and hand-worked values."""

import itertools
from math import comb

import numpy as np
import pytest

from neuralese.pipeline.statistics.paired import guess_floor, mcnemar, paired_difference


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (0, 12)])
def test_mcnemar_equals_the_binomial_sum(only_a, only_b):
    n = only_a + only_b
    tail = sum(comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n
    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


def test_a_paired_difference_by_hand():
    a = np.array([True] * 60 + [False] * 40)
    b = np.array([True] * 55 + [False] * 5 + [True] * 25 + [False] * 15)
    found = paired_difference(a, b, 4000)
    assert (found.value, found.only_a, found.only_b) == (pytest.approx(0.2), 5, 25)
    # Variance of a difference: (30 / 100 − 0.2²) / 100.
    half = 1.96 * ((0.3 - 0.04) / 100) ** 0.5
    assert found.ci95 == (pytest.approx(0.2 - half, abs=0.02), pytest.approx(0.2 + half, abs=0.02))
    assert found.p == pytest.approx(mcnemar(5, 25)) and found.p < 1e-3


def test_shares_have_an_interval_and_no_mcnemar():
    rng = np.random.default_rng(0)
    a = rng.random(400) * 0.9
    found = paired_difference(a, a + 0.1, 2000)
    # The same gain on all that was seen: what was not seen is one problem in 402 at either end.
    assert found.value == pytest.approx(0.1) and found.ci95 == pytest.approx(
        (0.1 - 3 * 1.1 / 402, 0.1 + 3 * 0.9 / 402), abs=0.003
    )
    assert found.p is None and found.only_a is None


def test_an_interval_of_equal_models_covers_zero_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        a, b = rng.random((2, 100)) < 0.5
        low, high = paired_difference(a, b, 300).ci95
        covered += low <= 0 <= high
    assert 180 <= covered <= 199  # 190 expected, 3 standard errors


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_guess_floor_equals_enumeration(k):
    answers = ["a", "a", "a", "b", "b", "c"]
    hits = [right in guesses for right in answers for guesses in itertools.product(answers, repeat=k)]
    assert guess_floor(answers, k) == pytest.approx(np.mean(hits))
