"""Samples on disk: a line of JSON for each problem, written as they come, so that a killed evaluation goes on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ...data.errors import UserError
from ..system.files import write_whole

logger = logging.getLogger(__name__)

VERSION = 3  # up to 2 a seed gave other noise and other tokens


class SamplesError(UserError):
    """A file of samples that cannot be used."""


class SampleFile:
    """`NAME.jsonl`: a head that says what was sampled and how, then a line for each problem.

    While samples are drawn, every process appends to a part file of its own beside it. The rows of a file with another
    head are not used.

    Args:
        what: The head: what samples depend on besides their question and seeds.
    """

    def __init__(self, path: Path, what: Mapping[str, Any]) -> None:
        self.path, self.what = path, {"version": VERSION, **json.loads(json.dumps(what))}
        self.part = path.with_name(f"{path.stem}.part{PartialState().process_index}.jsonl")
        self._is_begun = False

    def read(self) -> dict[int, dict[str, Any]]:
        """The rows on disk, by the place of their problem."""
        found: dict[int, dict[str, Any]] = {}
        for file in (self.path, *sorted(self.path.parent.glob(f"{self.path.stem}.part*.jsonl"))):
            if file.is_file():
                head, rows = _lines(file)
                if head == self.what:
                    found |= rows
                elif PartialState().is_main_process:
                    logger.warning("%s was sampled from another model or in another way; it is replaced.", file)
        return found

    def add(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Appends rows to the part of this process."""
        if not self._is_begun:
            # What a killed run left of this part is written anew: its last line may be torn.
            self.part.parent.mkdir(parents=True, exist_ok=True)
            head, before = _lines(self.part) if self.part.is_file() else ({}, {})
            self._write(self.part, before if head == self.what else {})
            self._is_begun = True
        with self.part.open("a", encoding="utf-8") as file:
            file.writelines(_line(place, row) for place, row in rows.items())

    def finish(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Writes all rows in the order of their problems, and removes the parts."""
        state = PartialState()
        if state.is_main_process:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._write(self.path, rows)
            for part in self.path.parent.glob(f"{self.path.stem}.part*.jsonl"):
                part.unlink()
        state.wait_for_everyone()

    def _write(self, path: Path, rows: Mapping[int, Mapping[str, Any]]) -> None:
        write_whole(
            path, "".join([json.dumps(self.what) + "\n", *(_line(place, rows[place]) for place in sorted(rows))])
        )


def digest(checkpoint: Path) -> str:
    """A hash of a checkpoint's config and weights, which tells it from others."""
    found = hashlib.sha256()
    for file in sorted([checkpoint / "config.json", *checkpoint.glob("*.safetensors")]):
        with file.open("rb") as opened:
            found.update(hashlib.file_digest(opened, "sha256").digest())
    return found.hexdigest()[:16]


def _line(place: int, row: Mapping[str, Any]) -> str:
    return json.dumps({"problem": place, **row}) + "\n"


def read_samples(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    """The head of a file, and its rows by the place of their problem.

    A line that a kill left half-written ends the file. The lines before it count.

    Raises:
        SamplesError: It was written by another version.
    """
    head, rows = _lines(path)
    if rows and head.get("version") != VERSION:
        raise SamplesError(
            f"{path} is of version {head.get('version')} of sample files, and this program reads {VERSION}. Evaluate "
            "again (`neuralese eval`)."
        )
    return head, rows


def _lines(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    head: dict[str, Any] = {}
    rows: dict[int, dict[str, Any]] = {}
    with path.open("rb") as file:
        for number, line in enumerate(file):
            try:
                values = json.loads(line)
            except ValueError:
                break
            if number == 0:
                head = values
            else:
                rows[values.pop("problem")] = values
    return head, rows
