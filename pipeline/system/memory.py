"""How much memory is free, and errors that say there was too little."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

# Parts of the messages of errors that are no MemoryError.
LACKING = ("can't allocate memory", "out of memory", "Cannot allocate memory", "not enough memory")
GROUPS = Path("/sys/fs/cgroup")


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there was too little memory, of a GPU or of the computer."""
    return isinstance(error, MemoryError) or any(words in str(error) for words in LACKING)


def free_memory(device: torch.device) -> int:
    """Bytes that this process may still take on a device.

    On CUDA what the device has free and what torch holds without use; elsewhere what the computer and the control
    groups of this process leave, shared by the processes of a launch on this machine.
    """
    if device.type == "cuda":
        import torch  # errors are explained where `--help` has not loaded it

        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    free = min([psutil.virtual_memory().available, *_left_by_groups(Path("/proc/self/cgroup"), GROUPS)])
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def whole_memory(device: torch.device) -> int:
    """Bytes that a device has: a GPU, or the computer within the limits of the control groups of this process."""
    if device.type == "cuda":
        import torch  # errors are explained where `--help` has not loaded it

        return torch.cuda.mem_get_info(device)[1]
    limits = (most for most, _ in _limits(Path("/proc/self/cgroup"), GROUPS))
    return min([psutil.virtual_memory().total, *limits])


def _left_by_groups(own: Path, root: Path) -> Iterator[int]:
    """Bytes that each control group of this process with a limit leaves it; see `_limits`."""
    for most, used in _limits(own, root):
        yield most - int(used.read_text()) + _cached(used.parent / "memory.stat")


def _limits(own: Path, root: Path) -> Iterator[tuple[int, Path]]:
    """The limit in bytes of each control group of this process that has one, of version 1 or 2, and its file of use.

    Args:
        own: Names the groups, as /proc/self/cgroup.
        root: Where they are mounted.
    """
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        limit, used = (
            ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        )
        group = top / path.lstrip("/")
        # In a container the group may be mounted as the root, so that its path leads nowhere.
        for folder in (group, *group.parents[: len(group.relative_to(top).parts)]):
            if not (folder / limit).is_file():
                continue
            most = (folder / limit).read_text().strip()
            if most != "max":
                yield int(most), folder / used


def _cached(stat: Path) -> int:
    """Bytes of files that a group keeps in memory and would give up."""
    rows = [line.split() for line in stat.read_text().splitlines()]
    return sum(int(value) for name, value in rows if name == "inactive_file")
