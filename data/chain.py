"""Chain arithmetic: `17 + 5 * 3 - 8 =`, computed from left to right without precedence, modulo `modulus`.

The steps are the running values: "22", "4", "27" for this question modulo 31; or, with `equations`, what they come
from: "17 + 5 = 22", "22 * 3 = 4", "4 - 8 = 27". The answer is the last value. Words are separated by single spaces, so
that each word can be one token.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from .equations import equation_holds
from .errors import DataError
from .problem import Problem
from .splits import (
    EVAL_PERCENT,
    Split,
    check_integer,
    draw_different,
    seeded,
    split_of,
    too_many,
)

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda value, operand: value + operand,
    "-": lambda value, operand: value - operand,
    "*": lambda value, operand: value * operand,
}
# Up to this number of questions a split is counted exactly. Above it a split holds its share within a few percent.
_SMALL_SPACE = 10_000

Chain = tuple[int, tuple[str, ...]]


@dataclass(frozen=True)
class ChainTask:
    """The distribution of questions: a start value below `modulus`, then `num_operations` operators and operands.

    The start is uniform in 0..modulus-1, each operator in + - *, each operand in min_operand..max_operand. With
    `equations` a step is an equation of five words.
    Raises DataError when a setting is not an integer in its range, or `equations` neither true nor false.
    """

    modulus: int = 31
    num_operations: int = 5
    min_operand: int = 1
    max_operand: int = 9
    equations: bool = False

    def __post_init__(self) -> None:
        lowest = {"modulus": 2, "num_operations": 1, "min_operand": 0, "max_operand": self.min_operand}
        for name, least in lowest.items():
            check_integer(name, getattr(self, name), least)
        if not isinstance(self.equations, bool):
            raise DataError(f"equations={self.equations!r} must be true or false.")

    @property
    def space(self) -> int:
        """Number of different questions in both splits together."""
        pairs = len(OPERATORS) * (self.max_operand - self.min_operand + 1)
        return self.modulus * pairs**self.num_operations


def generate(task: ChainTask, size: int, split: Split, seed: int) -> list[Problem]:
    """Return `size` different problems of one split, the same ones for the same arguments.

    Raises:
        DataError: `size` is below 1 or above what the split holds; `split` is neither "train" nor "eval".
    """
    rng = seeded(size, split, seed)
    percent = EVAL_PERCENT if split == "eval" else 100 - EVAL_PERCENT
    expected = task.space * percent // 100
    if size > task.space or (task.space > _SMALL_SPACE and size > 2 * expected):
        raise too_many(task, size, split, f"about {expected}")
    if task.space > _SMALL_SPACE and size <= expected // 2:
        pairs = _pairs(task)

        def draw() -> tuple[str, Chain]:
            chain = rng.randrange(task.modulus), tuple(rng.choices(pairs, k=task.num_operations))
            return _question(*chain), chain

        chains = draw_different(draw, size, split, task)
    else:
        # Drawing and rejecting would mostly give repeats, and would not end if the split holds too few.
        pool = [chain for chain in _enumerate(task) if split_of(_question(*chain)) == split]
        if size > len(pool):
            raise too_many(task, size, split, str(len(pool)))
        chains = rng.sample(pool, size)
    return [_problem(task, start, pairs) for start, pairs in chains]


def changes(task: ChainTask, problem: Problem, rng: random.Random) -> Iterator[Problem]:
    """Yield variants of a problem, in random order: the start or one operand differs, and so does the answer."""
    start, *rest = problem.question.removesuffix(" =").split(" ")
    pairs = [f"{operator} {operand}" for operator, operand in zip(rest[::2], rest[1::2], strict=True)]
    changed = [(other, pairs) for other in range(task.modulus) if other != int(start)]
    for place, pair in enumerate(pairs):
        others = [other for other in _pairs(task) if other[0] == pair[0] and other != pair]
        changed += [(int(start), [*pairs[:place], other, *pairs[place + 1 :]]) for other in others]
    for one in rng.sample(changed, len(changed)):
        candidate = _problem(task, *one)
        if candidate.answer != problem.answer:
            yield candidate


def valid_steps(task: ChainTask, problem: Problem, steps: Sequence[str]) -> list[bool]:
    """Return for each of some steps, right or not, whether it is valid.

    An equation is where it holds. A value is where the question's operation makes it of the value before it, right or
    not; the first value is made of the start.
    """
    if task.equations:
        return [equation_holds(step, task.modulus) for step in steps]
    start, *rest = problem.question.removesuffix(" =").split(" ")
    valid, before = [], start
    for place, step in enumerate(steps):
        operation = rest[2 * place : 2 * place + 2]
        if len(operation) < 2 or not before.isdecimal():
            valid.append(False)
        else:
            value = OPERATORS[operation[0]](int(before), int(operation[1])) % task.modulus
            valid.append(step.strip() == str(value))
        before = step.strip()
    return valid


def _enumerate(task: ChainTask) -> Iterator[Chain]:
    return product(range(task.modulus), product(_pairs(task), repeat=task.num_operations))


def _pairs(task: ChainTask) -> list[str]:
    operands = range(task.min_operand, task.max_operand + 1)
    return [f"{operator} {operand}" for operator in OPERATORS for operand in operands]


def _question(start: int, pairs: Iterable[str]) -> str:
    return f"{start} {' '.join(pairs)} ="


def _problem(task: ChainTask, start: int, pairs: Sequence[str]) -> Problem:
    value, steps = start, []
    for pair in pairs:
        operator, operand = pair.split(" ")
        before, value = value, OPERATORS[operator](value, int(operand)) % task.modulus
        steps.append(f"{before} {pair} = {value}" if task.equations else str(value))
    return Problem(_question(start, pairs), tuple(steps), str(value))
