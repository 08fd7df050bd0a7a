"""Right or wrong: answers judged by a reward function."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..data.problem import Problem
from ..rewards.checking import checked, is_async
from ..rewards.loading import load_reward


@functools.cache
def _scorer(spec: str) -> Callable[..., Any]:
    return checked(load_reward(spec), spec)


def is_right(scorer: str, problems: Sequence[Problem], texts: Sequence[Sequence[str]]) -> np.ndarray:
    """Judges n answers for each of P problems; returns (P, n) booleans. A score above 0.5 is right.

    Args:
        scorer: Name of a reward function, as in recipes.

    Raises:
        RewardError: The scorer cannot be loaded or returns something else than scores.
    """
    if not problems:
        return np.zeros((0, 0), dtype=bool)
    reward = _scorer(scorer)
    flat = [(problem, text) for problem, row in zip(problems, texts, strict=True) for text in row]
    names = sorted({name for problem in problems for name in problem.extra})
    columns = {name: [problem.extra.get(name) for problem, _ in flat] for name in names}
    columns |= {
        "prompts": [problem.question for problem, _ in flat],
        "completions": [text for _, text in flat],
        "question": [problem.question for problem, _ in flat],
        "steps": [list(problem.steps) for problem, _ in flat],
        "answer": [problem.answer for problem, _ in flat],
    }
    scores = asyncio.run(reward(**columns)) if is_async(reward) else reward(**columns)
    return np.array([score is not None and score > 0.5 for score in scores]).reshape(len(problems), -1)
