"""A lock file that names its holder, so that two launches never write into one folder."""

from __future__ import annotations

import os
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

    A lock file of a dead process is taken over if that process ran on this host, or in an earlier start of the Slurm
    job that this process runs in. Other processes of other hosts count as alive.

    Args:
        what: What is locked; the message begins with it.
        instead: For the message: what to do in place of waiting.

    Raises:
        LockedError: Another process holds it.
    """
    lock = SoftFileLock(file, timeout=WAIT, poll_interval=0.1)
    job_file = job_file_of(file)
    if _is_of_earlier_start(job_file):
        file.unlink(missing_ok=True)
    try:
        lock.acquire()
    except Timeout:
        raise LockedError(
            f"{what}: already running: {_holder(file)}. Nothing was changed. Wait for it, kill it, or {instead}. If "
            f"it runs no more, delete {file}."
        ) from None
    try:
        _write_job(job_file)
        flush_one(file)  # a power cut could leave it empty, and an empty lock file is never taken over
        yield
    finally:
        job_file.unlink(missing_ok=True)
        lock.release()


def job_file_of(file: Path) -> Path:
    """The file beside a lock file that says in which start of which Slurm job its holder runs."""
    return file.with_name(f"{file.name}.job")


def _slurm_start() -> tuple[str, int] | None:
    """The Slurm job that this process runs in, and how often it was queued again. None outside of Slurm."""
    if "SLURM_JOB_ID" not in os.environ:
        return None
    job = f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{os.environ['SLURM_JOB_ID']}"
    return job, int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _write_job(job_file: Path) -> None:
    start = _slurm_start()
    if start is None:
        job_file.unlink(missing_ok=True)
    else:
        job_file.write_text(f"{start[0]} {start[1]}\n", encoding="utf-8")


def _is_of_earlier_start(job_file: Path) -> bool:
    """Whether the holder ran in an earlier start of this job. Slurm queues a job again once all of that has ended."""
    start = _slurm_start()
    if start is None or not job_file.is_file():
        return False
    job, _, restarts = job_file.read_text(encoding="utf-8", errors="replace").strip().rpartition(" ")
    return job == start[0] and restarts.isdigit() and int(restarts) < start[1]


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
