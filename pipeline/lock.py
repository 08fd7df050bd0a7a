"""A lock file that names who holds it, so that two launches never write into one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from ..data.errors import UserError

WAIT = 3.0  # seconds; filelock takes over a lock file that a power cut left empty after 2


class LockedError(UserError):
    """Another process holds what was asked for."""


@contextmanager
def hold(file: Path, what: str, instead: str) -> Iterator[None]:
    """Holds a lock file, and removes it in the end.

    One that was left by a process of this host which is dead is taken over. Of other hosts nobody can tell.

    Args:
        what: What it stands for, to begin the message with.
        instead: What to do in place of waiting.

    Raises:
        LockedError: Another process holds it.
    """
    lock = SoftFileLock(file, timeout=WAIT, poll_interval=0.1)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"{what}: already running: {_holder(file)}. Nothing was changed. Wait for it, kill it, or {instead}. If "
            f"it runs no more, delete {file}."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _holder(file: Path) -> str:
    """Process, host and start of who holds a lock file, as filelock writes them: a line each, the start its time."""
    pid, host = [*file.read_text(encoding="utf-8", errors="replace").splitlines(), "?", "?"][:2]
    since = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")
    return f"pid {pid} on host {host.partition('?')[0] or '?'} since {since}"  # after ? stands a container's namespace
