"""Finds damaged files without unpickling them, and flushes files so that they survive a power cut."""

from __future__ import annotations

import errno
import json
import logging
import os
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open

from ...data.errors import reason

logger = logging.getLogger(__name__)


def fault_in(folder: Path) -> str | None:
    """The first damaged file below a folder, and why. None if there is none."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        fault = fault_of(file)
        if fault is not None:
            return f"{file.relative_to(folder)}: {fault}"
    return None


def fault_of(file: Path) -> str | None:
    """Why a file is damaged. None if it is whole, or of a kind that cannot be checked.

    JSON is parsed. The header of safetensors must match the size of the file. A file that torch saved is a zip with a
    checksum of every part. Plain pickles, which DeepSpeed writes too, cannot be checked.
    """
    try:
        if file.suffix == ".json":
            json.loads(file.read_bytes())
        elif file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                pass
        elif file.suffix in (".pt", ".pth") and not _is_plain_pickle(file):
            with ZipFile(file) as archive:
                part = archive.testzip()
            if part is not None:
                return f"the checksum of its part {part} is wrong"
    # A zip with flipped bits may ask for a password or an unknown compression, which are RuntimeErrors.
    except (ValueError, EOFError, RuntimeError, BadZipFile, zlib.error, SafetensorError) as error:
        return reason(error)
    return None


def _is_plain_pickle(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(1) == b"\x80"


def read_json(file: Path, lost: str) -> Any:
    """The content of a JSON file. None if the file is missing, or, with a warning, if it cannot be read.

    Args:
        lost: A sentence for the warning: what follows from that.
    """
    try:
        return json.loads(file.read_bytes()) if file.is_file() else None
    except ValueError as error:
        logger.warning("%s cannot be read (%s). %s", file, reason(error), lost)
        return None


def read_seconds(folder: Path) -> dict[str, float]:
    """Wall-clock seconds of each stage, from seconds.json of the run folder."""
    return read_json(folder / "seconds.json", "How long earlier stages took is not known.") or {}


def flush(folder: Path) -> None:
    """Forces all files below a folder onto the disk, so that a power cut leaves them whole."""
    for path in (folder, *folder.rglob("*")):
        flush_one(path)


def flush_one(path: Path) -> None:
    """Forces a file, or the names in a folder, onto the disk, if the file system can do so."""
    try:
        opened = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder on Windows
        return
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(opened)
