"""SIGTERM, by which schedulers and `kill` end a process, ends a command in order: what it holds is put down first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from ...data.errors import TerminatedError

TERMINATED = 128 + signal.SIGTERM  # the exit code, as shells give it


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Raises TerminatedError where the main thread is when SIGTERM comes; further ones are ignored while it ends."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TerminatedError

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
