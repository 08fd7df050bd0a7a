"""What all generated tasks share: train and eval split by a hash of the question, draws without repeats, checks.

The split of a question depends on its text only, so no question is ever in both splits, whatever the seeds and sizes.
"""

import hashlib
import math
import random
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from .errors import DataError, suggest

Split = Literal["train", "eval"]

EVAL_PERCENT = 10
# After this number of draws in a row without a new question of the split, it counts as exhausted.
_MOST_MISSES = 10_000

T = TypeVar("T")


def split_of(question: str) -> Split:
    """Return the split of a question: eval if a stable hash of its text, modulo 100, is below 10, else train."""
    digest = hashlib.blake2b(question.encode(), digest_size=8).digest()
    return "eval" if int.from_bytes(digest, "big") % 100 < EVAL_PERCENT else "train"


def seeded(size: int, split: Split, seed: int) -> random.Random:
    """Check the arguments that every `generate` takes, and return its random number generator.

    Raises:
        DataError: `size` is below 1, `split` is neither "train" nor "eval", `seed` is not an integer.
    """
    check_integer("size", size, 1)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise DataError(f"seed is {seed!r}. It must be an integer.")
    check_choice("split", split, ("train", "eval"))
    return random.Random(seed)  # noqa: S311 (reproducible, no secret)


def draw_different(draw: Callable[[], tuple[str, T]], size: int, split: Split, task: object) -> list[T]:
    """Draw until `size` different questions of the split are found.

    Args:
        draw: returns a question and the object to keep for it.
        task: for the message.

    Raises:
        DataError: 10,000 draws in a row gave no new question of the split.
    """
    found: dict[str, T] = {}
    misses = 0
    while len(found) < size:
        question, drawn = draw()
        if question not in found and split_of(question) == split:
            found[question] = drawn
            misses = 0
        elif (misses := misses + 1) == _MOST_MISSES:
            raise too_many(task, size, split, f"about {len(found)}")
    return list(found.values())


def too_many(task: object, size: int, split: Split, held: str) -> DataError:
    """Return the error for a size above the number of questions in a split.

    Args:
        held: this number, in words.
    """
    return DataError(
        f"size is {size}, but the {split} split of {task} holds {held} different questions. "
        f"Ask for fewer, or make the problems larger."
    )


def check_integer(name: str, value: object, lowest: int, highest: int | None = None) -> None:
    """Raise DataError unless `value` is an integer in `lowest..highest`."""
    most = math.inf if highest is None else highest
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= most:
        limit = f"of at least {lowest}" if highest is None else f"in {lowest}..{highest}"
        raise DataError(f"{name} is {value!r}. It must be an integer {limit}.")


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raise DataError unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        listed = " or ".join(map(repr, choices))
        raise DataError(f"{name} is {value!r}.{suggest(str(value), choices)} It must be {listed}.")
