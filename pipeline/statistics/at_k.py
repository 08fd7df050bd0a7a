"""What k of n samples reach: pass@k, votes, the best by a value, agreement, and AUROC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import numpy as np

SUBSETS = 64


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


def vote_at_k(
    answers: Sequence[Sequence[str]], right: np.ndarray, k: int, weights: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Chance of each problem (P,) that the answer with the most votes of k samples is right; ties are broken evenly.

    Exact for k = n. For smaller k it is the mean over random subsets of the samples, the same subsets for all problems
    and runs.

    Args:
        answers: (P, n) texts that are voted for.
        right: (P, n)
        weights: (P, n) of the votes; None: one each, the majority.
    """
    count, n = right.shape
    codes = np.array([np.unique(row, return_inverse=True)[1] for row in answers])  # (P, n) answers as numbers
    votes = np.ones((count, n)) if weights is None else weights
    if k == n:
        return _vote(codes, right, votes)
    rng = np.random.default_rng(seed)
    subsets = [rng.choice(n, k, replace=False) for _ in range(SUBSETS)]
    return np.mean([_vote(codes[:, subset], right[:, subset], votes[:, subset]) for subset in subsets], axis=0)


def _vote(codes: np.ndarray, right: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Chance (P,) that a vote over all samples (P, k) is right. Equal answers may be judged differently."""
    rows = np.broadcast_to(np.arange(len(codes))[:, None], codes.shape)
    shape = (len(codes), int(codes.max()) + 1)
    votes, counts, hits = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for total, values in (votes, weights), (counts, 1.0), (hits, right):
        np.add.at(total, (rows, codes), values)
    best = np.where(counts > 0, votes, -np.inf).max(1, keepdims=True)
    winners = np.isclose(votes, best, rtol=1e-9, atol=0) & (counts > 0)
    share = np.divide(hits, counts, out=np.zeros(shape), where=counts > 0)
    return (share * winners).sum(1) / winners.sum(1)


def best_at_k(values: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """Chance of each problem (P,) that the highest-valued of k samples is right; ties are broken evenly.

    Exact: the highest of k of n samples is at a level v with chance (C(N_≤v, k) − C(N_<v, k)) / C(n, k).

    Args:
        values: (P, n)
        right: (P, n)
    """
    n = values.shape[1]
    chance = np.array([comb(below, k) / comb(n, k) for below in range(n + 1)])  # that all k are among so many
    found = []
    for row, ok in zip(values, right, strict=True):
        _, level = np.unique(row, return_inverse=True)
        counts = np.bincount(level)
        upto = counts.cumsum()
        found.append(((chance[upto] - chance[upto - counts]) * np.bincount(level, weights=ok) / counts).sum())
    return np.array(found)


def agreement(answers: Sequence[Sequence[str]]) -> np.ndarray:
    """Share (P,) of each problem's samples (P, n) that give its most common answer.

    A measure of confidence (self-consistency, arXiv 2203.11171, section 3.5).
    """
    return np.array([max(Counter(row).values()) / len(row) for row in answers])


def auroc(values: np.ndarray, right: np.ndarray) -> float:
    """Chance that a right problem has a higher value than a wrong one; ties count half.

    Args:
        values: (P,)
        right: (P,) chance that each is right, between 0 and 1.

    Returns:
        NaN where all are right or all are wrong.
    """
    _, level = np.unique(values, return_inverse=True)
    hits, misses = np.bincount(level, weights=right), np.bincount(level, weights=1 - right)
    pairs = hits.sum() * misses.sum()
    below = misses.cumsum() - misses / 2
    return float((hits * below).sum() / pairs) if pairs > 0 else float("nan")
