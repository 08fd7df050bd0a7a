"""Problems from a local file or a Hugging Face dataset, with columns under any name."""

import csv
import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from .answer_formats import HASH, answer_format_of
from .conversation import from_conversational, is_conversational
from .errors import DataError, reason, shown, suggest
from .given_changes import with_given_changes
from .gsm8k import find_expressions, parse_gsm8k
from .problem import FIELDS, Problem, check_marker, parse_problem, parse_rows
from .prosqa import parse_symbolic
from .rows import missing_file, read_rows
from .svamp import SVAMP_COLUMNS, parse_svamp

# Files that `datasets` reads. Any other file is JSON or JSONL, told by its content.
TABLES = {".csv": "csv", ".parquet": "parquet"}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z\s])|\n")

Columns = Mapping[str, str | None]


def split_lines(text: str) -> list[str]:
    """Return the lines of `text`, stripped, without blank ones."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def split_sentences(text: str) -> list[str]:
    """Return the sentences of `text`: a break follows . ! or ? and white space, unless a lower-case letter comes next.

    A new line is a break as well. "Mr. Smith" is split too: abbreviations are not known.
    """
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


SPLITTERS: dict[str, Callable[[str], list[str]]] = {
    "line": split_lines,
    "sentence": split_sentences,
    "equations": find_expressions,
}
# Step splitters that read a whole row.
ROW_READERS: dict[str, Callable[[dict[str, Any], str], Problem]] = {
    "gsm8k": parse_gsm8k,
    "svamp": parse_svamp,
    "prosqa_symbolic": parse_symbolic,
}
# Columns of formats whose own names differ from ours.
_READER_COLUMNS: dict[str, dict[str, str]] = {"svamp": SVAMP_COLUMNS}


def load_problems(
    *,
    path: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    name: str | None = None,
    split: str = "train",
    columns: Columns | None = None,
    limit: int | None = None,
    step_splitter: str | None = None,
    streaming: bool = False,
    answer_format: str = HASH.name,
) -> list[Problem]:
    """Load problems from a file (`path`) or from a Hugging Face dataset (`dataset`).

    Args:
        path: a JSONL, JSON, CSV or Parquet file. CSV values that look like numbers are read as numbers: 1.50 becomes
            1.5. Use JSONL if the exact text matters.
        dataset: a dataset id on the Hub, or a folder, as `datasets.load_dataset` takes it. Its code is not run. If a
            JSON object has a key twice, the last one is kept. An integer of 2^63 or more becomes a float.
        name: the configuration of the dataset.
        split: the split of the dataset, or a slice such as "train[:100]". Ignored for a file.
        columns: our field -> their column, such as {"question": "prompt", "steps": "cot"}. A field that is not named
            is read from the column of its own name. `{"steps": None}` reads data without steps. Other columns go to
            `Problem.extra`.
        limit: keep the first `limit` rows.
        step_splitter: how a steps column that is one string becomes steps: "line" (the default), "sentence", or
            "equations", its parts in `<<...>>`. "gsm8k" reads GSM8K and GSM8K-Aug rows, see `parse_gsm8k`; "svamp"
            those of SVAMP, MAWPS and ASDiv, see `parse_svamp`; "prosqa_symbolic" rows of ProsQA, see `parse_symbolic`
            in `prosqa.py`.
        streaming: fetch the first `limit` rows of a dataset only, and keep nothing of them on the disk.
        answer_format: how answers are announced, a key of `ANSWER_FORMATS`. Rows with TRL's conversational columns are
            cut by it into steps and answer, see `from_conversational`. No answer may hold its marker.

    Raises:
        DataError: an argument, the file, the dataset or a row cannot be used. It names the first bad row by its line or
            index, and says how many there are.
    """
    _check_arguments(path, dataset, name, columns, limit, step_splitter)
    if streaming:
        _check_streaming(dataset, split, limit)
    answer_format_of(answer_format)
    if path is not None:
        path = Path(path).expanduser()
        if not columns and step_splitter is None and path.suffix.lower() not in TABLES:

            def read_whole(row: Any, where: str) -> Problem:
                return _parse_whole(row, where, answer_format)

            return _with_changes(read_rows(path), read_whole)[:limit]
        rows = _table_rows(path) if path.suffix.lower() in TABLES else read_rows(path)
    else:
        assert dataset is not None
        rows = _dataset_rows(dataset, name, split, streaming)
    renamed = {**_READER_COLUMNS.get(step_splitter or "", {}), **(columns or {})}

    def read(row: Any, where: str) -> Problem:
        return _parse(row, where, renamed, step_splitter, answer_format)

    problems = _with_changes(islice(rows, limit), read)
    if not problems:
        raise DataError(f"{path or dataset} has no rows. Choose another file, dataset or split.")
    if step_splitter == "equations" and not any(problem.steps for problem in problems):
        raise DataError(
            f"{path or dataset}: step_splitter 'equations' takes the <<...>> parts of the steps, but none of "
            f"{len(problems)} rows has one. Name another column in `columns` (steps: solution), or another splitter."
        )
    return problems


def _with_changes(rows: Iterable[tuple[str, Any]], read: Callable[[Any, str], Problem]) -> list[Problem]:
    """The problems of all rows, with the changed questions that they give read in the same way."""
    return parse_rows(rows, lambda row, where: with_given_changes(read(row, where), read))


def _check_arguments(
    path: object, dataset: object, name: object, columns: Columns | None, limit: object, step_splitter: str | None
) -> None:
    if (path is None) == (dataset is None):
        raise DataError(f"path is {path!r} and dataset is {dataset!r}. Set exactly one of the two.")
    if path is not None and name is not None:
        raise DataError(f"name is {name!r}, but a file has no configurations. Remove name, or set dataset, not path.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise DataError(f"limit is {limit!r}. It must be an integer of at least 1, or None for all rows.")
    known = (*SPLITTERS, *ROW_READERS)
    if step_splitter is not None and step_splitter not in known:
        raise DataError(
            f"step_splitter is {step_splitter!r}.{suggest(str(step_splitter), known)} It must be one of "
            f"{', '.join(known)}."
        )
    for field, column in (columns or {}).items():
        if field not in FIELDS:
            raise DataError(
                f"columns has the key {field!r}.{suggest(str(field), FIELDS)} Its keys are our fields: "
                f"{', '.join(FIELDS)}; its values are the columns of your data."
            )
        if not isinstance(column, str) and (field, column) != ("steps", None):
            raise DataError(f"columns[{field!r}] is {column!r}. It must be the name of a column.")


def _check_streaming(dataset: object, split: str, limit: object) -> None:
    if dataset is None:
        raise DataError("streaming is for a dataset, but path is a file. Remove it; `limit` reads its first rows.")
    if limit is None:
        raise DataError("streaming needs limit, the number of rows to fetch from the beginning. Set it.")
    if "[" in split:
        raise DataError(f"split is {split!r}, but streaming reads a split from its beginning. Write the split alone.")


def _parse_whole(row: Any, where: str, answer_format: str) -> Problem:
    """A row that has our fields under their own names, or TRL's conversational columns."""
    if is_conversational(row):
        row = from_conversational(row, where, split_lines, answer_format)
    return parse_problem(row, where, answer_format)


def _parse(row: Any, where: str, columns: Columns, step_splitter: str | None, answer_format: str) -> Problem:
    if not isinstance(row, dict):
        return parse_problem(row, where, answer_format)
    if is_conversational(row) and not columns and step_splitter not in ROW_READERS:
        row = from_conversational(row, where, SPLITTERS[step_splitter or "line"], answer_format)
    is_gsm8k = step_splitter == "gsm8k"
    row = _rename(row, where, columns, optional="steps" if is_gsm8k and "steps" not in columns else None)
    if step_splitter in ROW_READERS:
        problem = ROW_READERS[step_splitter](row, where)
        check_marker(problem.answer, where, answer_format)
        return problem
    row.setdefault("steps", [])
    if isinstance(row["steps"], str):
        row["steps"] = SPLITTERS[step_splitter or "line"](row["steps"])
    return parse_problem(row, where, answer_format)


def _rename(row: dict[str, Any], where: str, columns: Columns, optional: str | None) -> dict[str, Any]:
    """Return the row with our field names first, then its other columns.

    A column with the name of a field that is read from another column is left out. The field `optional`, and a field
    that `columns` maps to None, may be absent.
    """
    fields = {}
    for field in FIELDS:
        column = columns.get(field, field)
        if column in row:
            fields[field] = row[column]
        elif column is not None and field != optional:
            advice = "; {'steps': None} reads data without steps" if field == "steps" else ""
            raise DataError(
                f"{where}: there is no column {column!r} for {field}; the columns are {', '.join(map(str, row))}."
                f"{suggest(column, map(str, row))} Map {field} to one of them in `columns`{advice}."
            )
    used = {*FIELDS, *columns.values()}
    return {**fields, **{key: value for key, value in row.items() if key not in used}}


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    if not path.is_file():
        raise missing_file(path)
    kind = TABLES[path.suffix.lower()]
    if kind == "csv":
        _check_header(path)
    # Without this an answer "None" or "NA" in a CSV file would be read as a missing value.
    options = {"keep_default_na": False} if kind == "csv" else {}
    try:
        # `datasets` takes a pattern, in which brackets and stars of a file's name would mean something.
        table = _load(kind, data_files=glob.escape(str(path)), split="train", **options)
    except Exception as error:
        raise DataError(
            f"{path} could not be read as {kind}: {reason(error.__cause__ or error)}. Repair the file, or rename it if "
            f"its format is another one."
        ) from error
    return _numbered(table, str(path))


def _check_header(path: Path) -> None:
    """Make sure that every column of a CSV file has a name of its own.

    Raises:
        DataError: Two have one name, of which a reader would keep the first; or the file is no CSV in UTF-8. Columns
            without a name, which spreadsheets leave at the end, may be many.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = next(csv.reader(file), [])
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}, byte {error.start}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{path}: the header is no CSV: {error}. Repair the file.") from error
    twice = [name for name in dict.fromkeys(header) if name.strip() and header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the column {twice[0]!r} stands twice in the header. Rename or remove one of the two.")


def _dataset_rows(dataset: str, name: str | None, split: str, streaming: bool) -> Iterator[tuple[str, Any]]:
    try:
        table = _load(dataset, name, split=split, **({"streaming": True} if streaming else {}))
        # A stream is opened, and fails, at its first row.
        yield from _numbered(table, f"{dataset} ({shown(split)})")
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"Dataset {dataset!r} (name {name!r}, split {split!r}) could not be loaded: "
            f"{reason(error.__cause__ or error)}. Check the spelling of the id, that the name and the split exist, and "
            f"that the Hub can be reached (offline, only datasets already in the local cache load); a private or gated "
            f"dataset needs `hf auth login`."
        ) from error


def _load(*arguments: Any, **options: Any) -> Any:
    # Imported here: it takes a second, and JSON files do not need it.
    from datasets import load_dataset

    return load_dataset(*arguments, **options)


def _numbered(table: Iterable[Any], source: str) -> Iterator[tuple[str, Any]]:
    return ((f"{source}, row {index}", row) for index, row in enumerate(table))
