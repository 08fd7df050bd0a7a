"""SIGTERM, which schedulers and `kill` send, ends a command in order: as an exception, so that locks are released."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ...data.errors import TerminatedError

TERMINATED = 128 + signal.SIGTERM  # the exit code that shells give


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Within its block SIGTERM raises TerminatedError in the main thread. Further SIGTERMs are then ignored."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sigterm_noted() -> Iterator[Callable[[], bool]]:
    """Within its block SIGTERM interrupts nothing. Yields a function that tells whether this process has received one.

    The block is to look at it and to end. Once one was received, further ones are ignored, after the block, too: a
    launcher sends its own, which must not break off what the first one ends.

    Raises:
        TerminatedError: One was received, and the block has ended without an error.
    """
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield received.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        received.set()

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield received.is_set
    finally:
        if not received.is_set():
            signal.signal(signal.SIGTERM, before)
    if received.is_set():  # after the block last looked
        raise TerminatedError
