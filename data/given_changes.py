"""Variants of problems that the data itself gives, in the column `counterfactual`."""

from collections.abc import Mapping, Sequence

from .errors import DataError, shown
from .problem import Problem, parse_problem

COLUMN = "counterfactual"


def given_changes(problem: Problem) -> list[Problem]:
    """Return the variants that a problem comes with, with its other columns: none where the column is empty.

    Raises:
        DataError: one is no problem, or has the question or the answer of the problem itself.
    """
    given = problem.extra.get(COLUMN) or []
    rows = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    columns = {key: value for key, value in problem.extra.items() if key != COLUMN}
    return [_variant(problem, columns, row, f"{problem.named}, {COLUMN} {i}") for i, row in enumerate(rows, 1)]


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
