"""The arguments of one try of a reward: copies of the columns, and log functions that check what they are given."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any

import numpy as np

from ..data.errors import shown
from .errors import RewardError

LOGS = ("log_extra", "log_metric")
_TRAINER_STATE = "trainer_state"


def own_copies(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of all columns. A reward that edits its arguments then changes nothing for the next reward or try.

    The trainer's state and its log functions are not copied.
    """
    kept = (*LOGS, _TRAINER_STATE)
    return {name: value if name in kept else _copied(value) for name, value in arguments.items()}


def _copied(value: Any) -> Any:
    """A copy of a value of JSON or a table. Other objects, such as an environment, are not copied."""
    if type(value) is list:
        return [_copied(item) for item in value]
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    if type(value) is tuple:
        return tuple(_copied(item) for item in value)
    return value.copy() if isinstance(value, set | bytearray | np.ndarray) else value


def checked_logs(name: str, completions: Sequence[Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """The columns with checked log functions: `log_metric` takes numbers, `log_extra` one value for each completion."""
    checks: dict[str, Callable[..., Any]] = {
        "log_metric": partial(_log_metric, name),
        "log_extra": partial(_log_extra, name, len(completions)),
    }
    return {key: partial(checks[key], value) if key in checks else value for key, value in columns.items()}


def _log_metric(reward: str, log: Callable[..., Any], name: str, value: Any) -> None:
    if not isinstance(name, str) or not isinstance(value, Real | np.bool_):
        raise RewardError(
            f"Reward {reward!r} called log_metric({shown(name)}, {shown(value)}). Give a name and a number; of a "
            "tensor, tensor.item()."
        )
    log(name, float(value))


def _log_extra(reward: str, count: int, log: Callable[..., Any], column: str, values: Any) -> None:
    if not isinstance(column, str) or isinstance(values, str) or not hasattr(values, "__len__") or len(values) != count:
        raise RewardError(
            f"Reward {reward!r} called log_extra({shown(column)}, {shown(values)}). Give the name of a column and a "
            f"list with one value for each of the {count} completions."
        )
    log(column, list(values))
