"""Files that are whole or absent, whenever a run is killed, and places that can be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ..data.errors import UserError


class PlaceError(UserError):
    """A place that cannot be written to."""


def write_whole(path: Path, text: str) -> None:
    """Writes a text file through a rename, so that a reader never meets half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_text(text, encoding="utf-8")
    except OSError:
        partial.unlink(missing_ok=True)  # on a full disk half a file would take the room of a whole one
        raise
    partial.replace(path)


def check_writable(folder: Path, key: str) -> None:
    """Makes sure that files can be written into a folder, or into the one that it would be made in.

    Args:
        key: The recipe key or option that names the place, for the message.

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
        ) from error


def writable(target: Path) -> Path:
    """The file itself, once it is sure that it can be written.

    Raises:
        PlaceError: Its folder does not exist or cannot be written to.
    """
    if not target.parent.is_dir():
        raise PlaceError(f"There is no folder {target.parent} to write {target.name} to. Name another with --output.")
    check_writable(target.parent, "--output")
    return target
