"""Errors of the machine in words: full and read-only disks, wrong paths, too little memory, lost processes."""

from __future__ import annotations

import errno
import io
import re
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...data.errors import first_line, reason
from ..system.activity import NOW
from ..system.files import room, size_of
from ..system.memory import lacks_memory

# Parts of the messages that C++ and Rust libraries give in place of an OSError.
FULL = (
    "No space left on device",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
    "unexpected pos",
    "iostream error",
)
# Parts of the messages of gloo and NCCL when another process does not answer. NCCL has other errors of the same class.
LOST = ("gloo/transport", "ncclRemoteError", "Watchdog caught collective operation timeout")
LOST_TYPES = ("DistStoreError", "DistNetworkError")  # of torch.distributed, by name: `--help` loads no torch
SAVED = ("obj", "tensors")  # what torch.save and safetensors' save_file call that which they save
LOWER = (
    "Lower per_device_train_batch_size in the trainer section of that stage (gradient_accumulation_steps makes up for "
    "it), or set gradient_checkpointing: true there."
)


def explain(error: Exception) -> str | None:
    """What happened on the machine and what to change. None for an error of another kind."""
    if lacks_memory(error):
        return f"There is too little memory ({reason(error)[:200].rstrip('.')}). {LOWER}"
    number = error.errno if isinstance(error, OSError) else None
    if number in (errno.ENOSPC, errno.EDQUOT) or _says(error, FULL):
        return _full(error)
    if type(error).__name__ in LOST_TYPES or _says(error, LOST):
        return _lost(error)
    if not isinstance(error, OSError) or error.filename is None:
        return None
    if number == errno.EROFS:
        return f"{error.filename} lies on a read-only file system. Name a place that can be written."
    return f"{error.strerror}: {error.filename}. Check the path and its permissions."


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)


def _full(error: Exception) -> str:
    file = written_file(error)
    what = f" to write {file}" if file is not None else ""
    place = next((at for at in (file and file.parent, NOW.folder) if at is not None and at.is_dir()), None)
    free = f": {room(place)}" if place is not None else ""
    lacking = 0 if file is None or place is None else missing(error, file) - shutil.disk_usage(place).free
    more = f", and at least {lacking / 1e6:,.2f} MB more are needed" if lacking > 0 else ""
    return f"There is no space left{what}{free}{more}. Make space there.{NOW.kept}"


def missing(error: BaseException, file: Path) -> int:
    """Bytes that were still to be written to a file, or to the checkpoint that it is part of; 0 where that is unknown.

    Of the file, as the tensors of the failed call tell; of the checkpoint, as the largest one beside it tells.
    """
    of_file = _tensor_bytes(error) - (file.stat().st_size if file.is_file() else 0)
    folder = next((parent for parent in file.parents if parent.name.startswith("checkpoint-")), None)
    if folder is None or not folder.is_dir():
        return of_file
    sizes = {beside: _written(beside) for beside in folder.parent.glob("checkpoint-*")}
    return max(of_file, max(sizes.values()) - sizes[folder])


def _written(checkpoint: Path) -> int:
    """Bytes of a checkpoint as it was written, without what a resume has made of its parts (`load_universal`)."""
    return size_of(checkpoint) - sum(map(size_of, checkpoint.glob("*_universal")))


def _tensor_bytes(error: BaseException) -> int:
    """Bytes of the tensors that the failed call was given to save. 0 if it was given none."""
    if "torch" not in sys.modules:
        return 0
    from torch import Tensor

    def storages(value: Any) -> dict[int, int]:
        if isinstance(value, Tensor):
            return {value.data_ptr(): value.nbytes}  # tensors that share their memory are saved once
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return {place: size for one in inside for place, size in storages(one).items()}

    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = [sum(storages(frame.f_locals[name]).values()) for name in SAVED if name in frame.f_locals]
        if any(found):
            return max(found)
    return 0


def _lost(error: Exception) -> str:
    # Without the place in the library's source before what happened, and advice after it.
    said = re.sub(r"\[/\S+\] ", "", first_line(error)).partition(". ")[0]
    return (
        f"Another process of this launch has ended or cannot be reached ({said}). If an error ended it, it has said so "
        "on its machine; else it was killed, or its machine is down or off the network. Start the launch again on all "
        f"machines.{NOW.kept}"
    )


def written_file(error: BaseException) -> Path | None:
    """The file that was being written when an error was raised. None if it cannot be found.

    An OSError of a write and errors of safetensors and torch do not name the file. It is looked up in the variables of
    the failed call.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return Path(error.filename)
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        found = _files(frame.f_locals)
        if found:
            return found[0]
    return None


def _files(values: Mapping[str, Any]) -> list[Path]:
    """The files among the variables of a function: open files, then names, then other paths."""
    opened = [value.name for value in values.values() if isinstance(value, io.TextIOWrapper | io.BufferedWriter)]
    named = [values[name] for name in ("filename", "f") if isinstance(values.get(name), str)]
    paths = [value for value in values.values() if isinstance(value, Path) and not value.is_dir()]
    known = [file for file in (*opened, *named, *paths) if isinstance(file, str | Path)]
    return [Path(file) for file in known if not str(file).startswith("<")]  # <stderr> is no file
