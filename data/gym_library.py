"""The library reasoning-gym, which is imported when a recipe asks for it: its tasks and their verifiers.

Source: https://github.com/open-thought/reasoning-gym (Apache-2.0).
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from .errors import DataError, reason, shown, suggest

LIBRARY, EXTRA = "reasoning_gym", "neuralese[reasoning-gym]"
# What the source and the recipe say, and so no option of a task.
_OURS = ("seed", "size")


def create_gym(name: str, options: Mapping[str, Any], seed: int, size: int) -> Any:
    """Return the library's dataset of `size` problems of a task.

    Args:
        name: the library's name of the task.
        options: fields of the task's configuration in the library, without `seed` and `size`.

    Raises:
        DataError: the library is not installed; there is no such task or option; an option has a bad value.
    """
    tasks = _tasks()
    if name not in tasks:
        raise DataError(
            f"reasoning_gym has no task {name!r}.{suggest(str(name), tasks)} Its {len(tasks)} tasks are in the file "
            f"GALLERY.md of its repository."
        )
    known = [field.name for field in fields(tasks[name][1]) if field.name not in _OURS]
    for option in options:
        if option not in known:
            raise DataError(
                f"Task {name!r} of reasoning_gym has no option {option!r}.{suggest(str(option), known)} Its options "
                f"are {', '.join(known)}."
            )
    from reasoning_gym import create_dataset

    try:
        return create_dataset(name, **options, seed=seed, size=size)
    except Exception as error:  # it checks its options by assertions
        raise DataError(
            f"Task {name!r} of reasoning_gym cannot be made with the options {shown(dict(options))}: {reason(error)}. "
            f"Correct them."
        ) from error


def verifier(name: str, options: Mapping[str, Any]) -> Callable[[str, dict[str, Any]], float]:
    """Return the function (answer, entry) -> score in [0, 1] by which the library judges answers to a task.

    Raises:
        DataError: as `create_gym`.
    """
    score: Callable[[str, dict[str, Any]], float] = create_gym(name, options, seed=0, size=1).score_answer
    return score


def gsm_templates() -> list[int]:
    """Return the numbers of the templates that the library draws gsm_symbolic problems from."""
    from reasoning_gym.arithmetic.gsm_symbolic.gsm_symbolic import tasks_ok

    return list(tasks_ok)


def _tasks() -> dict[str, Any]:
    """The library's tasks: name -> (dataset class, configuration class)."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise DataError(missing("A source or reward 'reasoning_gym'")) from error
    return DATASETS


def missing(what: str) -> str:
    """The message where the library is not installed.

    Args:
        what: what needs it; the message begins with it.
    """
    return f"{what} needs the library reasoning-gym. Install it: pip install '{EXTRA}'."
