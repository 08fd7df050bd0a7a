"""The generated tasks by name, as recipes give them."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

from . import chain, equation_changes, graph_path, prosqa
from .chain import ChainTask
from .equations import equation_holds
from .errors import DataError, suggest
from .given_changes import given_changes
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
_VALID: dict[type, Callable[[Any, Problem, Sequence[str]], list[bool]]] = {ChainTask: chain.valid_steps}
# The most variants of a problem to look at for one of the same split.
_MOST_CHANGES = 50
# Chance of a guess in tasks whose questions name the candidates.
_CANDIDATES: dict[type, float] = {ProsQATask: 1 / 2}


def generate_task(name: str, options: Mapping[str, Any], size: int, split: str, seed: int) -> list[Problem]:
    """Return `size` different problems of one split of a task, the same ones for the same arguments.

    No question is in both splits, whatever the sizes and seeds.

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
    name: str | None, options: Mapping[str, Any], problem: Problem, seed: int, within: int | None = None
) -> Problem | None:
    """Return a variant of a problem: one thing in its question differs, and no right answer stays right.

    Problems that come from no task of ours have the variants that they are given with (`given_changes`), or else, where
    their steps are equations, those of `equation_changes`. A variant of the same split is preferred, so that a question
    of the split eval does not become one of train. None if the problem has no variant. The same arguments give the same
    variant.

    Args:
        name: the task of the problem, None for other data. It and `options` are those of `generate_task`.
        within: only variants with a difference in the first `within` steps, unless the problem has no steps. None: any.
    """
    rng = random.Random(f"{seed} {problem.question}")  # noqa: S311 (reproducible, no secret)
    if name is None:
        given = given_changes(problem)
        changed = iter(rng.sample(given, len(given))) if given else equation_changes.changes(problem, rng)
    else:
        kind = TASKS[name]
        changed = _CHANGES[kind](kind(**options), problem, rng)
    anywhere = within is None or not problem.steps
    fitting = (other for other in changed if anywhere or other.steps[:within] != problem.steps[:within])
    found = list(islice(fitting, _MOST_CHANGES))
    split = split_of(problem.question)
    return next((one for one in found if split_of(one.question) == split), found[0] if found else None)


def valid_steps(
    name: str | None, options: Mapping[str, Any], problem: Problem, steps: Sequence[str]
) -> list[bool] | None:
    """Return for each of some steps, right or not, whether it is valid by itself. None: nothing can tell.

    A task may have rules of its own (chain arithmetic). Elsewhere a step is valid where it is an equation that holds
    (`equation_holds`), as long as the problem's own steps are such equations.

    Args:
        name: the task of the problem, None for other data. It and `options` are those of `generate_task`.
        steps: what stands in the place of the problem's own steps.
    """
    rule = _VALID.get(TASKS[name]) if name is not None else None
    if name is not None and rule is not None:
        return rule(TASKS[name](**options), problem, steps)
    if not problem.steps or not all(equation_holds(step) for step in problem.steps):
        return None
    return [equation_holds(step) for step in steps]


def guess_share(name: str | None, problems: Sequence[Problem]) -> float:
    """Return the share of problems that a guess gets right: the most common answer, or a candidate that is named.

    Args:
        name: the task of the problems. None: they come from no task, so candidates are not known.
    """
    most_common = Counter(problem.answer for problem in problems).most_common(1)[0][1] / len(problems)
    return max(most_common, _CANDIDATES.get(TASKS[name], 0.0) if name is not None else 0.0)
