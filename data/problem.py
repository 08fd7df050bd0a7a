"""The class Problem, checks of its rows, and JSONL files of problems."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .answer_formats import HASH, answer_format_of
from .conversation import as_json, as_question
from .errors import DataError, shown, suggest
from .rows import read_rows

FIELDS = ("question", "steps", "answer")
MOST_NESTED = 100  # deepest nesting of lists and objects in a column, far below Python's recursion limit


@dataclass(frozen=True)
class Problem:
    """A question, the text steps that lead to its answer, and the answer.

    `extra` holds all other columns of the row. Reward functions receive them by name. `where` is the place in the file
    that the problem was read from, for messages; problems that differ in it are equal. A question of several turns is
    a `Conversation`, a string too.
    Raises DataError if `extra` has a key with the name of one of the three fields.
    """

    question: str
    steps: tuple[str, ...]
    answer: str
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: str = field(default="", compare=False, repr=False)

    @property
    def named(self) -> str:
        """What messages call the problem: its place in the file, or its question if it was generated."""
        return self.where or f"the problem {shown(self.question)}"

    def __post_init__(self) -> None:
        clash = [key for key in FIELDS if key in self.extra]
        if clash:
            raise DataError(f"Extra column {clash[0]!r} has the name of a field of Problem. Rename the extra column.")

    def to_dict(self) -> dict[str, Any]:
        """Return the row of a JSONL file: the three fields, then the extra columns."""
        return {"question": as_json(self.question), "steps": list(self.steps), "answer": self.answer, **self.extra}


def parse_problem(row: dict[str, Any], where: str, answer_format: str = HASH.name) -> Problem:
    """Check one row and return it as a Problem.

    An answer that is a number becomes text (18 and 18.0 both become "18"). The answer is stripped. Blank steps are
    dropped: GSM8K-Aug writes "no steps" as `[""]`, and latents must not replace a blank step.

    Args:
        row: an object with `question`, `steps` and `answer`. All other keys go to `extra`.
        where: names the row in messages, such as "train.jsonl, line 3".
        answer_format: how the answer will be written; its marker may not be in the answer.

    Raises:
        DataError: a key is missing, has the wrong type or is empty; the answer contains its marker, `###`; a column is
            nested too deep or holds a lone surrogate.
    """
    if not isinstance(row, dict):
        raise DataError(
            f"{where}: expected an object with question, steps and answer, got {type(row).__name__} {shown(row)}. "
            f'Write each problem as {{"question": ..., "steps": [...], "answer": ...}}.'
        )
    for key in FIELDS:
        if key not in row:
            found = ", ".join(map(str, row)) or "no keys"
            raise DataError(
                f"{where}: {key!r} is missing; found {found}.{suggest(key, map(str, row))} Add the key, "
                f"or name the column that holds it in `columns`."
            )
    for key, value in row.items():
        _check_value(key, value, where)
    extra = {key: value for key, value in row.items() if key not in FIELDS}
    question, steps, answer = (
        _question(row["question"], where),
        _steps(row["steps"], where),
        _answer(row["answer"], where, answer_format),
    )
    return Problem(question, steps, answer, extra, where)


def _check_value(column: Any, value: Any, where: str) -> None:
    """Check that the name and the value of a column can be tokenized, copied and written.

    Raises:
        DataError: a text has a lone surrogate, or lists and objects are nested too deep.
    """
    waiting = [(value, 0), (column, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > MOST_NESTED:
            raise DataError(f"{where}: {column} is nested more than {MOST_NESTED} levels deep. Write flat columns.")
        if isinstance(part, str):
            check_unicode(part, f"{where}: {shown(column)}")
        elif isinstance(part, dict):
            waiting += [(inner, depth + 1) for pair in part.items() for inner in pair]
        elif isinstance(part, list | tuple):
            waiting += [(inner, depth + 1) for inner in part]


def check_unicode(text: str, name: str) -> None:
    """Check that a text can be written as UTF-8, as tokenizers need it.

    Raises:
        DataError: it has a lone surrogate, half of a character.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has the lone surrogate {text[error.start]!r}, half of a character and no text: {shown(text)}. "
            f"Write the whole character, or remove it."
        ) from error


def _question(value: Any, where: str) -> str:
    if isinstance(value, list | tuple):
        return as_question(value, where)
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{where}: question is {shown(value)}. It must be a string that is not empty, or a list of messages."
        )
    return value


def _steps(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise DataError(
            f"{where}: steps is {type(value).__name__} {shown(value)}. It must be a list of strings, [] for no steps; "
            f"to split one string into steps, set `step_splitter`."
        )
    for index, step in enumerate(value):
        if not isinstance(step, str):
            raise DataError(
                f"{where}: steps[{index}] is {type(step).__name__} {shown(step)}. Write each step as a string."
            )
    return tuple(step for step in value if step.strip())


def _answer(value: Any, where: str, answer_format: str) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DataError(f"{where}: answer is {value}. It must be a string or a finite number.")
        # Table readers turn integers into floats when another row of the column is empty.
        value = int(value) if value.is_integer() else value
    if not is_number and not isinstance(value, str):
        raise DataError(
            f"{where}: answer is {type(value).__name__} {shown(value)}. It must be a string or a finite number."
        )
    text = str(value).strip()
    if not text:
        raise DataError(f"{where}: answer is empty ({shown(value)}). Give the answer, or remove the row.")
    check_marker(text, where, answer_format)
    return text


def check_marker(answer: str, where: str, answer_format: str) -> None:
    """Check that an answer, once it is written, can be read again.

    Raises:
        DataError: it holds what announces an answer, or what ends one.
    """
    form = answer_format_of(answer_format)
    clash = form.clash(answer)
    if clash is not None:
        what = "at which a model's answer ends" if clash == form.after else "after which a model's answer is read"
        raise DataError(
            f"{where}: answer {shown(answer)} holds {clash!r}, {what}, so none could ever be right. Give the bare "
            f"answer, or set another data.answer_format; step_splitter: gsm8k reads the rows of GSM8K."
        )


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """Read a file of problems: JSONL (one object a line), or one JSON list of objects (the Coconut format).

    The format is told by the content: a file whose first character that is not a space is `[` is a list.

    Raises:
        DataError: the file is missing, empty or not JSON, or rows are malformed; names the file and the line (JSONL) or
            the index from 0 (list) of the first, and how many there are.
    """
    return parse_rows(read_rows(path), parse_problem)


def parse_rows(rows: Iterable[tuple[str, Any]], parse: Callable[[Any, str], Problem]) -> list[Problem]:
    """Parse all rows, given as `(where, row)`.

    Raises:
        DataError: rows are malformed; the message is that of the first and says how many there are.
    """
    problems, errors = [], []
    for where, row in rows:
        try:
            problems.append(parse(row, where))
        except DataError as error:
            errors.append(error)
    if len(errors) > 1:
        raise DataError(f"{errors[0]} In all {len(errors)} of {len(errors) + len(problems)} rows are malformed.")
    if errors:
        raise errors[0]
    return problems


def write_problems(path: str | os.PathLike[str], problems: Iterable[Problem]) -> None:
    """Write problems as JSONL, one object a line; `read_problems` returns them again.

    The file is written beside `path` and then renamed, so it is whole or absent. Missing folders are made.

    Raises:
        DataError: an extra column holds a value that JSON cannot express. `path` is then unchanged.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            for index, problem in enumerate(problems):
                file.write(_line(problem, index))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _line(problem: Problem, index: int) -> bytes:
    try:
        return (json.dumps(problem.to_dict(), ensure_ascii=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise DataError(
            f"Problem {index} cannot be written as JSON: {error}; its extra columns are {shown(dict(problem.extra))}. "
            f"Keep to strings, numbers, lists and objects."
        ) from error
