"""SIGTERM, which schedulers and `kill` send, ends a command in order: as an exception, so that locks are released."""

from __future__ import annotations

import signal
from collections.abc import Iterator
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
