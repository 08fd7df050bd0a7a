"""Variants of problems that the data itself gives, in the column `counterfactual`.

When data is loaded `with_given_changes` reads them as it reads rows. From then on the column is a list of objects with
question, steps and answer, from which `given_changes` makes problems.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .conversation import as_question
from .errors import DataError, shown
from .problem import FIELDS, Problem

COLUMN = "counterfactual"


def with_given_changes(problem: Problem, read: Callable[[Any, str], Problem]) -> Problem:
    """Return a problem with its variants read: one object in its column `counterfactual`, or a list of them.

    A column without any object means something else and stays as it is.

    Args:
        read: reads a row, given as `(row, where)`, as those of the data are read.

    Raises:
        DataError: a variant cannot be read as a row, or has the question or the answer of the problem itself.
    """
    given = problem.extra.get(COLUMN)
    rows = [given] if isinstance(given, Mapping) else given
    if not isinstance(rows, Sequence) or not any(isinstance(row, Mapping) for row in rows):
        return problem
    read_ones = [_variant(problem, row, f"{problem.named}, {COLUMN} {i}", read) for i, row in enumerate(rows, 1)]
    return replace(problem, extra={**problem.extra, COLUMN: read_ones})


def _variant(problem: Problem, row: Any, where: str, read: Callable[[Any, str], Problem]) -> dict[str, Any]:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected an object, as rows are, got {type(row).__name__} {shown(row)}.")
    # Tables give all objects of a column the same keys, and None where a row has none.
    other = read({key: value for key, value in row.items() if value is not None}, where)
    for field in ("question", "answer"):
        if getattr(other, field) == getattr(problem, field):
            raise DataError(
                f"{where}: the {field} is that of the problem, {shown(getattr(other, field))}. Change one thing in the "
                f"question such that the answer changes."
            )
    return other.to_dict()


def given_changes(problem: Problem) -> list[Problem]:
    """Return the variants of a problem that was loaded, with its other columns where they have none of their own."""
    given = problem.extra.get(COLUMN)
    if not isinstance(given, Sequence) or not all(isinstance(row, Mapping) for row in given):
        return []
    columns = {key: value for key, value in problem.extra.items() if key != COLUMN}
    return [_problem(row, columns, f"{problem.named}, {COLUMN} {i}") for i, row in enumerate(given, 1)]


def _problem(row: Mapping[str, Any], columns: Mapping[str, Any], where: str) -> Problem:
    question, own = row["question"], {key: value for key, value in row.items() if key not in FIELDS}
    question = question if isinstance(question, str) else as_question(question, where)
    return Problem(question, tuple(row["steps"]), row["answer"], {**columns, **own}, where)
