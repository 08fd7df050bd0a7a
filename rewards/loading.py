"""Reward functions by name: from a module, a file or the built-ins."""

import importlib.util
import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..data.errors import suggest
from ..data.user_code import import_source
from . import gym, mathematics
from .builtin import BUILTIN
from .errors import RewardError

# Built-ins that bear the name of their library -> the error where it is not installed.
_LIBRARIES = {mathematics.LIBRARY: mathematics.missing, gym.LIBRARY: gym.missing_library}
# What the trainer passes by keyword to every reward function, besides the columns of the data.
TRAINER_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def load_reward(spec: str) -> Callable[..., Any]:
    """Return the reward function that `spec` names.

    Args:
        spec: `package.module:function`; `path/to/file.py:function`, absolute or relative to the working directory;
            or the name of a built-in, such as `exact_match`. The working directory, or the folder of the file, joins
            the end of `sys.path`, so that the module can import its neighbours. A file is run anew at each call.

    Raises:
        RewardError: the name, the file or the function does not exist, the import fails, or the function does not
            take prompts, completions and any other column by keyword; the library of a built-in is not installed.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise RewardError(f"A reward is named by a string, got {spec!r}. Built-in: {', '.join(BUILTIN)}.")
    source, colon, name = spec.strip().rpartition(":")
    if not colon:
        return _builtin(spec.strip())
    if not source or not name:
        raise RewardError(f"Reward {spec!r} lacks the part {'before' if name else 'after'} the colon. {_forms()}")
    module = import_source(source, f"Reward {spec!r}", RewardError)
    function = _function(spec, module, name)
    _check_signature(spec, function)
    return function


def _forms() -> str:
    return "Write package.module:function, path/to/file.py:function, or the name of a built-in."


def _builtin(name: str) -> Callable[..., Any]:
    if name in _LIBRARIES and importlib.util.find_spec(name) is None:
        raise _LIBRARIES[name]()
    if name in BUILTIN:
        return BUILTIN[name]
    raise RewardError(
        f"Reward {name!r} is not a built-in ({', '.join(BUILTIN)}) and has no colon.{suggest(name, BUILTIN)} {_forms()}"
    )


def _function(spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise RewardError(
            f"Reward {spec!r}: the module has no {name!r}.{suggest(name, public)} "
            f"It has {', '.join(public) or 'no functions'}."
        )
    function = getattr(module, name)
    if isinstance(function, type):
        raise RewardError(f"Reward {spec!r} is a class. Name a function, or an instance that can be called.")
    if not callable(function):
        raise RewardError(f"Reward {spec!r} is {type(function).__name__}, which cannot be called. Name a function.")
    return function


def _check_signature(spec: str, function: Callable[..., Any]) -> None:
    """Raise RewardError unless `function` takes every argument of the trainer, and any other column, by keyword."""
    expected = "Define it as f(prompts, completions, **columns) -> list[float | None]."
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError as error:
        raise RewardError(f"Reward {spec!r} has no signature that can be read. {expected}") from error
    shown = f"({', '.join(map(str, parameters))})"
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        raise RewardError(
            f"Reward {spec!r} has the signature {shown}, which has no **columns; the trainer passes "
            f"{', '.join(TRAINER_ARGUMENTS)} and all extra columns by keyword. {expected}"
        )
    fixed = [
        parameter.name
        for parameter in parameters
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and parameter.default is inspect.Parameter.empty
    ]
    if fixed:
        raise RewardError(
            f"Reward {spec!r} has the signature {shown}, which takes {fixed[0]} by position only; the trainer passes "
            f"everything by keyword. {expected}"
        )
