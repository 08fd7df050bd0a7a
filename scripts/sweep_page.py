"""The page of a sweep, and its tables between the markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sweep_file import PLACE, Cell, Sweep, SweepError

from neuralese.pipeline.system.files import write_whole


def render(name: str, sweep: Sweep, cells: Sequence[Cell]) -> None:
    """Writes the tables of a sweep between the markers of its page."""
    from sweep_table import render_sweep

    file = page_of(name)
    before, after = around_markers(name)
    write_whole(file, f"{before}\n{render_sweep(name, sweep, cells)}\n{after}")
    print(f"Rendered {name} into {file}.")


def page_of(name: str) -> Path:
    """The page that holds the tables of a sweep."""
    return PLACE / f"{name}.md"


def around_markers(name: str) -> tuple[str, str]:
    """The page of a sweep up to and with the first marker, and from the second marker on.

    Raises:
        SweepError: A marker is missing or stands twice.
    """
    file = page_of(name)
    first, second = f"<!-- sweep:{name} -->", f"<!-- /sweep:{name} -->"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    if text.count(first) != 1 or text.count(second) != 1 or text.index(first) > text.index(second):
        raise SweepError(
            f"{file} must hold the lines {first!r} and {second!r}, each once and in this order. The tables of the "
            "sweep go between them; add the lines where they belong."
        )
    return text[: text.index(first) + len(first)], text[text.index(second) :]
