"""metrics.jsonl: one line of JSON for each log, with `stage`, `step` (optimizer step of the stage) and metrics."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from ..system.files import write_whole

logger = logging.getLogger(__name__)
Row = dict[str, Any]


def read_rows(file: Path) -> list[Row]:
    """The rows of a file, or none if it is missing. Torn lines are left out: a run may be writing."""
    return [row for row in _read(file) if row is not None]


def mend(file: Path) -> None:
    """Removes torn lines. A kill tears the last one only; others mean a fault, so they get a warning."""
    rows = _read(file)
    if None not in rows:
        return
    torn = sum(row is None for row in rows[:-1])
    if torn:
        logger.warning("%d lines of %s cannot be read and were removed. The others are kept.", torn, file)
    write_rows(file, [row for row in rows if row is not None])


def write_rows(file: Path, rows: list[Row]) -> None:
    """Writes a file anew, whole or not at all."""
    write_whole(file, "".join(json.dumps(row) + "\n" for row in rows))


def _read(file: Path) -> list[Row | None]:
    return [_row(line) for line in file.read_bytes().split(b"\n") if line] if file.is_file() else []


def _row(line: bytes) -> Row | None:
    """The row of a line. None if the line is torn."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"stage", "step"} <= row.keys() else None
