"""Selectors: ways to choose one of k samples without knowing which is right.

A new one needs an entry in `METRICS`, a branch in `select`, and its name in `Selector` of
`pipeline/recipe/schema/evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from accelerate.utils import gather_object

from ...data.errors import UserError
from ...data.problem import Problem
from ...rewards.score import call_reward
from ..statistics.at_k import best_at_k, vote_at_k
from ..system.processes import my_share
from .problem_samples import Sampled

# Selector -> the metric it makes.
METRICS = {
    "majority": "maj@k",
    "likelihood": "likelihood@k",
    "reward": "reward@k",
    "weighted": "weighted@k",
    "latent_reward": "latent_reward@k",
    "latent_weighted": "latent_weighted@k",
}
# Not a selector: how well the agreement of samples tells problems with a right majority from others (`auroc`).
AGREEMENT = "agreement@k"


def fewest(selector: str) -> int:
    """The fewest samples that a selector needs. A majority needs three: among two any answer is one."""
    return 3 if selector in ("majority", "agreement") else 2


def selector_name(metric: str) -> str:
    """The selector behind a metric of results.json, in words."""
    return {"pass@1": "any sample", "pass@k": "oracle", "maj@k": "majority"}.get(
        metric, metric.removesuffix("@k").replace("_", " ")
    )


def select(selector: str, sampled: Sequence[Sampled], rewards: np.ndarray | None, k: int) -> np.ndarray:
    """Chance of each problem (P,) that the sample which a selector chooses among k is right.

    - majority: the answer that most samples give.
    - weighted: a vote in which a sample counts its reward less the lowest reward of the problem.
    - likelihood: the sample with the highest log-prob of its answer, given its thought.
    - reward: the sample with the highest reward.
    - latent_reward: the sample whose thought has the highest latent reward S.
    - latent_weighted: a vote in which a sample counts exp(S), the odds that its thought is right.

    Args:
        rewards: (P, n) of the samples, for reward and weighted.
    """
    right = np.array([row.right for row in sampled])
    if selector == "likelihood":
        return best_at_k(np.array([row.logprobs for row in sampled]), right, k)
    if selector == "latent_reward":
        return best_at_k(np.array([row.latent_rewards for row in sampled]), right, k)
    if selector == "majority":
        return vote_at_k([row.answers for row in sampled], right, k)
    if selector == "latent_weighted":
        judged = np.array([row.latent_rewards for row in sampled])
        odds = np.exp(judged - judged.max(1, keepdims=True))
        return vote_at_k([row.answers for row in sampled], right, k, odds)
    assert rewards is not None
    if selector == "reward":
        return best_at_k(rewards, right, k)
    weights = rewards - rewards.min(1, keepdims=True)
    return vote_at_k([row.answers for row in sampled], right, k, weights)


def selection_rewards(
    reward: Callable[..., Any], problems: Sequence[Problem], sampled: Sequence[Sampled]
) -> np.ndarray:
    """Rewards (P, n) of all samples, on every process. Each judges the samples of a part of the problems.

    A sample without a reward gets the lowest of all.

    Raises:
        RewardError: The reward returns something else than rewards.
    """
    mine = my_share(range(len(problems)))
    given: list[float | None] = []
    failed: list[UserError] = []
    try:
        if mine:
            texts = [sampled[place].texts for place in mine]
            given = call_reward(reward, [problems[place] for place in mine], texts, sampled[0].answer_format)
    except UserError as error:
        failed.append(error)
    for failure in gather_object(failed):  # on all processes: the others would wait
        raise failure
    n = len(sampled[0].texts)
    rows = dict(gather_object([(place, given[at * n : (at + 1) * n]) for at, place in enumerate(mine)]))
    values = np.array([rows[place] for place in range(len(problems))], dtype=float)  # None becomes NaN
    lowest = np.nanmin(values) if not np.isnan(values).all() else 0.0
    return np.where(np.isnan(values), lowest, values)
