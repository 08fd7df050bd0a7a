"""Variants of problems that the data itself gives, in the column `counterfactual`."""

import random
from collections.abc import Iterator, Mapping, Sequence

from .errors import DataError, shown
from .problem import Problem, parse_problem

COLUMN = "counterfactual"


def has_given(problem: Problem) -> bool:
    """Return whether a problem comes with variants. An empty column, as tables have it, gives none."""
    return problem.extra.get(COLUMN) not in (None, [], {})


def changes(problem: Problem, rng: random.Random) -> Iterator[Problem]:
    """Yield the variants that a problem comes with, in random order, with the problem's other columns.

    Raises:
        DataError: one is no problem, or has the question or the answer of the problem itself.
    """
    given = problem.extra[COLUMN]
    rows = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    columns = {key: value for key, value in problem.extra.items() if key != COLUMN}
    found = [_variant(problem, columns, row, f"{problem.named}, {COLUMN} {i}") for i, row in enumerate(rows, 1)]
    rng.shuffle(found)
    yield from found


def _variant(problem: Problem, columns: Mapping[str, object], row: object, where: str) -> Problem:
    if not isinstance(row, Mapping):
        raise DataError(
            f"{where}: expected an object with question, steps and answer, got {type(row).__name__} {shown(row)}. Give "
            f"the problem with one thing changed, or a list of such objects."
        )
    other = parse_problem(dict(row), where)
    for field in ("question", "answer"):
        if getattr(other, field) == getattr(problem, field):
            raise DataError(
                f"{where}: the {field} is that of the problem, {shown(getattr(other, field))}. Change one thing in the "
                f"question such that the answer changes."
            )
    return Problem(other.question, other.steps, other.answer, {**columns, **other.extra}, where)
