"""Files that are whole or absent, whenever a run is killed, and that the user's group may read where others are."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Writes a text file through a rename, so that a reader never meets half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def follow_umask(folder: Path) -> None:
    """Gives the weights in a folder the mode of other new files. safetensors writes them for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o666 & ~mask)
