"""Generated tasks by name, as a recipe gives them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

from . import chain, graph_path, prosqa
from .chain import ChainTask
from .errors import DataError, suggest
from .graph_path import GraphPathTask
from .problem import Problem
from .prosqa import ProsQATask
from .splits import split_of

TASKS: dict[str, type] = {"chain": ChainTask, "prosqa": ProsQATask, "graph_path": GraphPathTask}
_GENERATORS: dict[type, Callable[[Any, int, Any, int], list[Problem]]] = {
    ChainTask: chain.generate,
    ProsQATask: prosqa.generate,
    GraphPathTask: graph_path.generate,
}
_CHANGES: dict[type, Callable[[Any, Problem, random.Random], Iterator[Problem]]] = {
    ChainTask: chain.changes,
    ProsQATask: prosqa.changes,
    GraphPathTask: graph_path.changes,
}
# Changed problems that are looked at for one of the same split.
_MOST_CHANGES = 50
# Chance of a guess where a question names the candidates.
_CANDIDATES: dict[type, float] = {ProsQATask: 1 / 2}


def generate_task(name: str, options: Mapping[str, Any], size: int, split: str, seed: int) -> list[Problem]:
    """Return `size` different problems of one split of a task, the same ones for the same arguments.

    A question is in one split only, whatever sizes and seeds it is asked for with.

    Args:
        name: a key of `TASKS`.
        options: fields of the task's dataclass; those not given keep their defaults.
        split: "train" or "eval".

    Raises:
        DataError: the name or an option is unknown; an option, size, split or seed has a bad value; the split holds
            fewer than `size` problems.
    """
    if name not in TASKS:
        raise DataError(f"There is no task {name!r}.{suggest(str(name), TASKS)} The tasks are {', '.join(TASKS)}.")
    task = TASKS[name]
    known = [field.name for field in fields(task)]
    for option in options:
        if option not in known:
            raise DataError(
                f"Task {name!r} has no option {option!r}.{suggest(str(option), known)} Its options are "
                f"{', '.join(known)}."
            )
    return _GENERATORS[task](task(**options), size, split, seed)


def change_one(
    name: str, options: Mapping[str, Any], problem: Problem, seed: int, within: int | None = None
) -> Problem | None:
    """Return the problem with one operand or one edge of its question changed, such that no right answer stays right.

    One of the same split where it is found among the first few, so that a question of the evaluation split is not
    changed into one of the training split. None where the problem has no such change. The same one for the same
    arguments.

    Args:
        name: the task that the problem comes from, with its `options`, as for `generate_task`.
        within: one of the first so many steps differs; None: any.
    """
    kind = TASKS[name]
    rng = random.Random(f"{seed} {problem.question}")  # noqa: S311 (reproducible, no secret)
    changed = _CHANGES[kind](kind(**options), problem, rng)
    fitting = (other for other in changed if within is None or other.steps[:within] != problem.steps[:within])
    found = list(islice(fitting, _MOST_CHANGES))
    split = split_of(problem.question)
    return next((one for one in found if split_of(one.question) == split), found[0] if found else None)


def guess_share(name: str | None, problems: Sequence[Problem]) -> float:
    """Return the share of problems that a guess gets right: always the most common answer, or any candidate named.

    Args:
        name: the task that the problems come from; None: none of ours, of which nothing is known about candidates.
    """
    most_common = Counter(problem.answer for problem in problems).most_common(1)[0][1] / len(problems)
    return max(most_common, _CANDIDATES.get(TASKS[name], 0.0) if name is not None else 0.0)
