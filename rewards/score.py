"""Scores answers by a reward function. A score above 0.5 means right."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.answer_formats import HASH
from ..data.problem import Problem
from .checking import checked, is_async
from .loading import load_reward

logger = logging.getLogger(__name__)
RIGHT = 0.5


_told: set[str] = set()  # scorers that were warned of by `is_right`


@functools.cache
def checked_reward(spec: str) -> Callable[..., Any]:
    """A reward function by its name, loaded once and guarded.

    Raises:
        RewardError: It cannot be loaded.
    """
    return checked(load_reward(spec), spec)


def is_right(
    scorer: str, problems: Sequence[Problem], texts: Sequence[Sequence[str]], answer_format: str = HASH.name
) -> np.ndarray:
    """Whether each of n answers to P problems is right: (P, n) booleans from `scores_of`.

    The first time that a scorer gives no score to some answers, a warning says to how many.
    """
    if not problems:
        return np.zeros((0, 1), dtype=bool)  # a process may have none
    scores = scores_of(scorer, problems, texts, answer_format)
    if scorer not in _told and warn_of_unscored(scorer, scores):
        _told.add(scorer)
    return np.array([[is_high(score) for score in row] for row in scores], dtype=bool).reshape(len(problems), -1)


def warn_of_unscored(scorer: str, scores: Sequence[Sequence[float | None]], where: str = "") -> bool:
    """Warns of answers to which a scorer gave no score. Returns whether there are any.

    Args:
        where: Where the answers are from, for the message.
    """
    flat = [score for row in scores for score in row]
    count = flat.count(None)
    if count:
        logger.warning(
            "The scorer %s gave None, which is no score, to %d of %d answers%s; they count as wrong.",
            scorer, count, len(flat), where,
        )  # fmt: skip
    return count > 0


def is_high(score: float | None) -> bool:
    """Whether a score means right. None does not."""
    return score is not None and score > RIGHT


def scores_of(
    scorer: str, problems: Sequence[Problem], texts: Sequence[Sequence[str]], answer_format: str = HASH.name
) -> list[list[float | None]]:
    """Scores (P, n) of n answers to each of P problems.

    Args:
        scorer: Name of a reward function, as in recipes.
        answer_format: How the answers are announced in the texts, see `extract_answer`.

    Raises:
        RewardError: The scorer cannot be loaded or returns something else than scores.
    """
    if not problems:
        return []
    scores = iter(call_reward(checked_reward(scorer), problems, texts, answer_format))
    return [[next(scores) for _ in row] for row in texts]


def call_reward(
    reward: Callable[..., Any],
    problems: Sequence[Problem],
    texts: Sequence[Sequence[str]],
    answer_format: str = HASH.name,
) -> list[float | None]:
    """Rewards (P · n,) of n answers to each of P problems, the answers of a problem in a row."""
    flat = [(problem, text) for problem, row in zip(problems, texts, strict=True) for text in row]
    names = sorted({name for problem in problems for name in problem.extra})
    columns = {name: [problem.extra.get(name) for problem, _ in flat] for name in names}
    columns |= {
        "prompts": [problem.question for problem, _ in flat],
        "completions": [text for _, text in flat],
        "question": [problem.question for problem, _ in flat],
        "steps": [list(problem.steps) for problem, _ in flat],
        "answer": [problem.answer for problem, _ in flat],
        "answer_format": [answer_format] * len(flat),
    }
    return list(asyncio.run(reward(**columns)) if is_async(reward) else reward(**columns))
