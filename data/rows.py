"""Reads the rows of JSON and JSONL files, without a check of their content."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import DataError, shown, suggest


def read_rows(path: str | os.PathLike[str]) -> Iterator[tuple[str, Any]]:
    """Yield `(where, row)` for each row of a JSONL file, or of a JSON list if the first character is `[`.

    Raises:
        DataError: the file is missing, empty or not JSON; an object has a key twice, or is nested too deep for Python.
    """
    path = Path(path)
    text = _read_text(path)
    start = text.lstrip()
    if not start:
        raise DataError(f"{path} is empty. Write one JSON object with question, steps and answer on each line.")
    yield from _list_rows(path, text) if start[0] == "[" else _line_rows(path, text)


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give the path of a JSONL, JSON, CSV or Parquet file in it.")
    if not path.is_file():
        raise missing_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise DataError(f"{path} could not be read: {error.strerror}. Check its permissions.") from error


def missing_file(path: Path) -> DataError:
    """Return the error for a missing file. It names the nearest file name in the folder."""
    if not path.parent.is_dir():
        return DataError(f"{path} does not exist, nor does its folder {path.parent}. Check the path.")
    near = suggest(path.name, sorted(os.listdir(path.parent)))
    return DataError(f"{path} does not exist.{near} Relative paths start at {Path.cwd()}.")


class _RepeatedKey(ValueError):
    """An object has a key twice. JSON readers would silently keep the last one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for key in keys if keys.count(key) > 1))
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _decoded(text: str, position: int, where: str) -> tuple[Any, int]:
    """Return the JSON value at a position of a text, and the position of its end.

    Raises:
        ValueError: there is none.
        DataError: it has a key twice, or is nested too deep for Python.
    """
    try:
        return _DECODER.raw_decode(text, position)
    except _RepeatedKey as error:
        raise DataError(f"{where}: the key {str(error)!r} stands twice in an object. Remove one of the two.") from error
    except RecursionError as error:
        raise DataError(f"{where}: nested too deep to be read. Write flat columns.") from error


def _list_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    index, position = 0, _skip_space(text, text.index("[") + 1)
    try:
        while text[position : position + 1] != "]":
            row, position = _decoded(text, position, f"{path}, index {index}")
            yield f"{path}, index {index}", row
            index, position = index + 1, _skip_space(text, position)
            if text[position : position + 1] == ",":
                position = _skip_space(text, position + 1)
                if text[position : position + 1] == "]":
                    raise json.JSONDecodeError("Illegal trailing comma before end of array", text, position)
            elif text[position : position + 1] != "]":
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
        if _skip_space(text, position + 1) < len(text):
            raise json.JSONDecodeError("Extra data", text, position + 1)
    except ValueError as error:
        raise DataError(
            f"{path} starts with '[' but is not a JSON list: {error}. Repair it, or write one JSON object a line."
        ) from error
    if not index:
        raise DataError(f"{path} is an empty list. Put at least one problem in it.")


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\n\r":
        position += 1
    return position


def _line_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also splits at characters such as U+2028, which JSON allows inside strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            start = _skip_space(line, 0)
            row, end = _decoded(line, start, where)
            if _skip_space(line, end) < len(line):
                raise json.JSONDecodeError("Extra data", line, end)
        except ValueError as error:
            raise DataError(
                f"{where}: not JSON: {error}; got {shown(line.strip())}. Write one whole JSON object on each line."
            ) from error
        yield where, row
