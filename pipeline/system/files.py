"""Files that are whole or absent whenever a run is killed, and checks that a place can be written to."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ...data.errors import UserError


class PlaceError(UserError):
    """A place that cannot be written to."""


def write_whole(path: Path, text: str) -> None:
    """Writes a text file beside its place and renames it, so that nobody reads half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk half a file would take the room of a whole one
        raise
    partial.replace(path)


def follow_umask(folder: Path) -> None:
    """Gives the weights in a folder the mode that the umask asks for. safetensors lets only their owner read them."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~mask)


def check_writable(folder: Path, key: str) -> None:
    """Checks that files can be written into a folder, or into the nearest one above it that exists.

    Args:
        key: The recipe key or option that names the folder, for the message.

    Raises:
        PlaceError: They cannot.
    """
    place = next((parent for parent in (folder, *folder.absolute().parents) if parent.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\0")
            file.flush()
    except OSError as error:
        raise PlaceError(
            f"{folder} cannot be written to: {error.strerror} ({place}). Name another place with {key}, or change this "
            "one."
        ) from None


def room(folder: Path) -> str:
    """How much of the disk under a folder is free, in words."""
    usage = shutil.disk_usage(folder)
    return f"{usage.free / 1e6:,.2f} of {usage.total / 1e6:,.2f} MB are free"


def size_of(folder: Path) -> int:
    """Bytes of the files in a folder and below it."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def check_room(folder: Path, needed: int, what: str = "the weights of a stage") -> None:
    """Checks that the disk of a run folder has room for what is to be written.

    Args:
        needed: Its size in bytes.
        what: What it is, for the message.

    Raises:
        PlaceError: It has not.
    """
    if shutil.disk_usage(folder).free < needed:
        raise PlaceError(
            f"{folder} has too little room for {what}, {needed / 1e6:,.2f} MB: {room(folder)}. Make "
            "space, or name another place with output_dir."
        )


def writable(target: Path) -> Path:
    """Returns `target` if it can be written.

    Raises:
        PlaceError: Its folder does not exist or cannot be written to.
    """
    if not target.parent.is_dir():
        raise PlaceError(f"There is no folder {target.parent} to write {target.name} to. Name another with --output.")
    check_writable(target.parent, "--output")
    return target
