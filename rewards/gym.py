"""Answers judged by the verifiers of the library reasoning-gym."""

import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..data.answer_formats import HASH, answer_format_of
from ..data.errors import DataError, reason, shown
from ..data.gym_library import LIBRARY, missing, verifier
from .answers import completion_text
from .errors import RewardError

logger = logging.getLogger(__name__)

Verifier = Callable[[str, dict[str, Any]], float]
_told: set[str] = set()  # tasks whose verifier was warned of


def reasoning_gym(
    prompts: Sequence[Any],
    completions: Sequence[Any],
    entry: Sequence[Mapping[str, Any] | None] | None = None,
    answer_format: Sequence[str] | None = None,
    **_: Any,
) -> list[float | None]:
    """The score in [0, 1] that the task's own verifier gives to the answer that a completion announces.

    Where none is announced the whole completion counts. The column `answer_format` says how it is; without it `hash`.
    The column `entry` is that of problems from a source `reasoning_gym`; a
    problem without one gives None. An answer on which the verifier fails, though it can judge the problem's own answer,
    is a wrong one: 0.0.

    Raises:
        RewardError: there is no column `entry`, the library is not installed, or it has no such task.
    """
    if entry is None:
        raise RewardError(
            "The reward 'reasoning_gym' received no column 'entry'. Problems of a source reasoning_gym have it; add "
            "the column to the data, or choose another reward."
        )
    formats = [answer_format_of(name) for name in answer_format or [HASH.name] * len(completions)]
    return [
        None if given is None else _score(given, form.read(completion_text(completion)).strip())
        for completion, given, form in zip(completions, entry, formats, strict=True)
    ]


def missing_library() -> RewardError:
    """The error of the reward where the library is not installed."""
    return RewardError(missing(f"The reward {LIBRARY!r}"))


def _score(entry: Mapping[str, Any], answer: str) -> float:
    try:
        name, options, own = entry["metadata"]["source_dataset"], entry.get("options", {}), entry["answer"]
    except (KeyError, TypeError, AttributeError) as error:
        raise RewardError(
            f"The reward 'reasoning_gym' received the entry {shown(entry)}, which lacks {error}. An entry is an object "
            "with question, answer and metadata, whose source_dataset is the task."
        ) from error
    judge = _verifier(name, json.dumps(options, sort_keys=True))
    try:
        return float(judge(answer, dict(entry)))
    except Exception as error:
        judge(own, dict(entry))  # raises where the verifier cannot judge this problem at all
        _warn_once(name, f"{reason(error)}, for the answer {shown(answer)}")
        return 0.0


@functools.cache
def _verifier(name: str, options: str) -> Verifier:
    """The verifier of a task with options, given as JSON so that they can be a key of the cache."""
    try:
        return verifier(name, json.loads(options))
    except DataError as error:
        raise RewardError(f"The reward 'reasoning_gym' has no verifier: {error}") from error


def _warn_once(name: str, what: str) -> None:
    if name not in _told:
        _told.add(name)
        logger.warning(
            "The verifier of %s failed (%s). Such answers count as wrong. This is said once for a task.", name, what
        )
