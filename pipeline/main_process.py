"""What one process of a launch does for all."""

from __future__ import annotations

from collections.abc import Callable

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..data.errors import UserError


def on_main(work: Callable[[], object]) -> None:
    """Does something on the main process while the others wait. What it raises ends all of them."""
    failure: list[Exception | None] = [None]
    if PartialState().is_main_process:
        try:
            work()
        except (UserError, OSError) as error:
            failure[0] = error
    broadcast_object_list(failure)
    if failure[0] is not None:
        raise failure[0]
