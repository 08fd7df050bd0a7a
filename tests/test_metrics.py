"""Estimators against enumeration and hand-worked values."""

import itertools

import numpy as np
import pytest
from reference import pass_at_k as enumerated

from neuralese.pipeline.statistics.at_k import agreement, auroc, pass_at_k, vote_at_k
from neuralese.pipeline.statistics.intervals import auroc_ci


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_pass_at_k_equals_enumeration(k):
    rows = np.array([[0, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1]], dtype=bool)
    assert pass_at_k(rows, k) == pytest.approx([enumerated(row, k) for row in rows])


def test_pass_at_k_stays_finite_for_many_samples():
    right = np.zeros((1, 1024), dtype=bool)
    right[0, 0] = True
    assert pass_at_k(right, 512) == pytest.approx([0.5])


def test_majority_counts_votes_and_splits_ties():
    answers = [["a", "b", "a"], ["a", "b", "c"], ["b", "b", "a"]]
    right = np.array([[answer == "a" for answer in row] for row in answers])
    assert vote_at_k(answers, right, 3) == pytest.approx([1.0, 1 / 3, 0.0])


def test_majority_of_fewer_estimates_the_mean_over_subsets():
    answers = [["a", "a", "b", "b", "b", "c"]]
    right = np.array([[answer == "a" for answer in answers[0]]])

    def exact(k):
        subsets = itertools.combinations(range(6), k)
        return np.mean([vote_at_k([[answers[0][i] for i in s]], right[:, list(s)], k)[0] for s in subsets])

    draws = [vote_at_k(answers, right, 4, seed=seed)[0] for seed in range(50)]
    assert np.mean(draws) == pytest.approx(exact(4), abs=4 * np.std(draws) / 50**0.5)
    assert vote_at_k(answers, right, 4) == vote_at_k(answers, right, 4)


def test_agreement_is_the_share_of_the_commonest_answer():
    assert agreement([["1", "1", "2", "1"], ["1", "2", "3", "4"], ["a", "a", "b", "b"]]).tolist() == [0.75, 0.25, 0.5]


def test_auroc_equals_counting_pairs():
    values = np.array([0.9, 0.5, 0.5, 0.7, 0.1])
    right = np.array([1.0, 1.0, 0.0, 0.0, 0.0])
    half = np.array([1.0, 0.5, 0.0, 0.0, 0.0])  # a tie is half right and half wrong, and counts as both
    for chances in (right, half):
        pairs, hits = chances[:, None] * (1 - chances)[None], np.sign(values[:, None] - values[None]) / 2 + 0.5
        assert auroc(values, chances) == pytest.approx((pairs * hits).sum() / pairs.sum())
    assert auroc(values, right) == pytest.approx(4.5 / 6)
    assert np.isnan(auroc(values, np.ones(5)))
    low, high = auroc_ci(values, right, 200)
    assert 0 <= low < 0.75 < high <= 1
