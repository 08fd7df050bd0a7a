"""A lock file that names its holder, so that two launches never write into one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout

from ...data.errors import UserError
from .integrity import flush_one
from .processes import on_main

WAIT = 1.0  # seconds; on network disks filelock takes over a lock of a dead process only at its second attempt


class LockedError(UserError):
    """Another process holds what was asked for."""


@contextmanager
def hold(file: Path, what: str, instead: str) -> Iterator[None]:
    """Holds a lock file during its block.

    A lock file of a dead process is taken over if that process ran on this host. Processes of other hosts count as
    alive.

    Args:
        what: What is locked; the message begins with it.
        instead: For the message: what to do in place of waiting.

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
        flush_one(file)  # a power cut could leave it empty, and an empty lock file is never taken over
        yield
    finally:
        lock.release()


@contextmanager
def hold_for_all(file: Path, what: str, instead: str) -> Iterator[None]:
    """`hold` by the main process, for all processes of a launch."""
    with ExitStack() as held:
        on_main(lambda: held.enter_context(hold(file, what, instead)))
        yield


def _holder(file: Path) -> str:
    """Process, host and start of the holder of a lock file. filelock writes process and host, a line each."""
    try:
        since = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M:%S")
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return "a process that has just ended"
    if len(lines) < 2:
        return f"a process since {since} whose lock file does not name it"
    host = lines[1].partition("?")[0]  # after the ? comes the namespace of a container
    return f"pid {lines[0]} on host {host} since {since}"
