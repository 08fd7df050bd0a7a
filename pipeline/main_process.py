"""What one process of a launch does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.errors import UserError

Result = TypeVar("Result")


def on_main(work: Callable[[], Result]) -> Result:
    """Does something on the main process while the others wait. All get its result; what it raises ends all of them."""
    outcome: list[Any] = [None, None]
    if PartialState().is_main_process:
        try:
            outcome[0] = work()
        except (UserError, OSError) as error:
            outcome[1] = error
    broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
