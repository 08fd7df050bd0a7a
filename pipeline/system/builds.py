"""Locks of compilations that were killed: DeepSpeed builds its C++ parts at their first use, one process at a time."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import psutil

from .network import is_one_machine

logger = logging.getLogger(__name__)
BUILD = 1800.0  # seconds that no build takes


def free_dead_builds() -> None:
    """Removes the locks that killed processes left where torch builds and loads extensions.

    `torch.utils.cpp_extension` holds a build by a file that names no holder, and waits for it without end: a process
    that is killed as it builds or loads one would make every later launch hang. Its holder keeps the file open, so a
    lock that no process of this machine has open, and that is older than this process, belongs to none that lives.
    Where a launch has several machines, which may share the folder, it must be older by more than a build takes.

    Only the first process of a machine does this: no other can take a lock that is there, so no living one is lost.
    """
    if os.environ.get("LOCAL_RANK") != "0":
        return
    from torch.utils.cpp_extension import get_default_build_root  # slow, and of use to launched processes alone

    own = os.environ.get("TORCH_EXTENSIONS_DIR")
    locks = Path(own).glob("*/lock") if own else Path(get_default_build_root()).glob("*/*/lock")
    for lock in locks:
        try:
            if _is_dead(lock):
                lock.unlink()
                logger.warning(
                    "%s was left by a process that was killed as it built or loaded an extension. Removed.", lock
                )
        except OSError:  # it has just been released, or is not ours to remove
            continue


def _is_dead(lock: Path) -> bool:
    """Whether no process of this machine holds a lock.

    Raises:
        OSError: It is gone.
    """
    found = lock.stat()
    if found.st_mtime >= psutil.Process().create_time() - (0.0 if is_one_machine() else BUILD):
        return False
    held = lock.resolve()
    for process in psutil.process_iter():
        try:
            if any(Path(file.path) == held for file in process.open_files()):
                return False
        except psutil.Error:  # it has ended, or belongs to another user, who builds in another folder
            continue
    return lock.stat().st_ino == found.st_ino
