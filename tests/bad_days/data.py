"""Data: what cannot be right is named with its row, and what is merely unusual is read."""

import json

import pyarrow
import pyarrow.parquet

from .day import TINY, BadDay

ROW = {"question": "1 + 2 =", "steps": ["3"], "answer": "3"}
LINE = json.dumps(ROW)
EVAL = "data.eval={task: chain, size: 8, options: {modulus: 5, num_operations: 1}}"
CHECK = ["check", TINY, EVAL, "rl=null", "curriculum.supervision=none"]
JSONL = [*CHECK, "data.train={path: '{folder}/data.jsonl'}"]
CSV = [*CHECK, "data.train={path: '{folder}/data.csv', step_splitter: line}"]
READ = "Data: 40 training problems. First: '0 + 0 ='"


def _rows(**change):
    """40 rows of which each has a question of its own; `change` is of the last."""
    rows = [{**ROW, "question": f"{i} + 0 =", "steps": [f"+ {i % 5}"], "answer": str(i % 5)} for i in range(40)]
    return [*rows[:-1], {**rows[-1], **change}]


def _lines(**change):
    return "".join(json.dumps(row) + "\n" for row in _rows(**change))


def _file(text, name="data.jsonl", encoding="utf-8"):
    """Writes a file of data."""

    def write(scene):
        path = scene.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode(encoding))

    return write


def _last(text):
    """Writes rows of which the last is this text."""
    return _file("".join(_lines().splitlines(keepends=True)[:-1]) + text + "\n")


def _mixed():
    kinds = [{"a": 1}, {"b": 2}, "x", 1, None, [1, "x"]]
    rows = [{**row, "extra": kinds[i % len(kinds)]} for i, row in enumerate(_rows())]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _table(rows):
    lines = [f"{row['question']},{row['steps'][0]},{row['answer']}" for row in rows]
    return "\n".join(["question,steps,answer", *lines, ""])


def _parquet(scene):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(_rows()), scene.folder / "data.parquet")


def _twice(extra):
    return _last(f"{LINE[:-1]}, {extra}}}")


REFUSED = [
    BadDay(
        "a key twice in a JSON object",
        JSONL,
        "{folder}/data.jsonl, line 40: the key 'answer' stands twice in an object. Remove one of the two.",
        before=_twice('"answer": "4"'),
    ),
    BadDay(
        "a key twice in an object of a column",
        JSONL,
        "{folder}/data.jsonl, line 40: the key 'a' stands twice in an object",
        before=_twice('"extra": {"a": 1, "a": 2}'),
    ),
    BadDay(
        "a key twice in a recipe",
        ["check", "{folder}/mine.yaml"],
        "{folder}/mine.yaml is no valid YAML: the key 'seed' stands twice",
        before=_file("name: mine\nseed: 1\nsft: {}\nseed: 2\n", "mine.yaml"),
    ),
    BadDay(
        "JSON nested 100,000 deep",
        JSONL,
        "{folder}/data.jsonl, line 40: nested too deep to be read",
        before=_twice(f'"extra": {"[" * 100_000}{"]" * 100_000}'),
    ),
    BadDay(
        "a lone surrogate in a question",
        JSONL,
        "{folder}/data.jsonl, line 40: 'question' has the lone surrogate '\\ud800', half of a character and no text",
        before=_file(_lines(question="1 \ud800 =")),
    ),
    BadDay(
        "half a character in the question of a sample",
        ["sample", "{finished}/curriculum/final", "1 + \udce9 ="],
        "Question 0 has the lone surrogate '\\udce9', half of a character and no text",
    ),
    BadDay(
        "a right answer that holds `###`",
        JSONL,
        "answer 'it is 3 #### 3' holds '###', after which a model's answer is read, so none could ever be right",
        before=_file(_lines(answer="it is 3 #### 3")),
    ),
    BadDay("NaN as an answer", JSONL, "line 40: answer is nan.", before=_file(_lines(answer=float("nan")))),
    BadDay("null as an answer", JSONL, "line 40: answer is NoneType None.", before=_file(_lines(answer=None))),
    BadDay("an empty answer", JSONL, "line 40: answer is empty (' '). Give the", before=_file(_lines(answer=" "))),
    BadDay(
        "UTF-16 JSON lines", JSONL, "{folder}/data.jsonl is not UTF-8 text", before=_file(_lines(), encoding="utf-16")
    ),
    BadDay(
        "a UTF-16 CSV file",
        CSV,
        "{folder}/data.csv is not UTF-8 text",
        before=_file(_table(_rows()), "data.csv", "utf-16"),
    ),
    BadDay(
        "a column name twice in a CSV file",
        CSV,
        "{folder}/data.csv: the column 'answer' stands twice in the header",
        before=_file("question,steps,answer,answer\n1 =,1,1,2\n", "data.csv"),
    ),
]
READ_ALL = [
    BadDay("a byte order mark", JSONL, READ, "it is read", 0, _file(_lines(), encoding="utf-8-sig")),
    BadDay(
        "Windows line ends and blank lines",
        JSONL,
        READ,
        "it is read",
        0,
        _file("\r\n" + _lines().replace("\n", "\r\n \r\n")),
    ),
    BadDay("a number as an answer", JSONL, READ, "18.0 is 18", 0, _file(_lines(answer=3.0))),
    BadDay("NaN in another column", JSONL, READ, "rewards get it", 0, _file(_lines(extra=float("nan")))),
    BadDay("an integer of 2^63 in another column", JSONL, READ, "rewards get it", 0, _file(_lines(extra=2**63))),
    BadDay(
        "another column of several types, objects with other keys among them",
        JSONL,
        READ,
        "rewards get each as it stands",
        0,
        _file(_mixed()),
    ),
    BadDay("a CSV file", CSV, READ, "it is read", 0, _file(_table(_rows()), "data.csv", "utf-8-sig")),
    BadDay(
        "a CSV file with columns without a name, as spreadsheets leave them",
        [*CHECK, "data.train={path: '{folder}/data.csv', step_splitter: line}"],
        READ,
        "it is read",
        0,
        _file("question,steps,answer,,\n" + "".join(f"{i} + 0 =,s{i},{i},,\n" for i in range(40)), "data.csv"),
    ),
    BadDay("a Parquet file", [*CHECK, "data.train={path: '{folder}/data.parquet'}"], READ, "it is read", 0, _parquet),
    BadDay(
        "spaces, brackets and accents in the path of data",
        [*CHECK, "data.train={path: '{folder}/my data [é]/data *.csv', step_splitter: line}"],
        READ,
        "it is read",
        0,
        _file(_table(_rows()), "my data [é]/data *.csv"),
    ),
]
SAME = ["check", TINY, "rl=null", "curriculum.supervision=none", "data.eval={path: '{folder}/data.jsonl'}"]
SOURCES = [
    BadDay(
        "the same file to train and to evaluate on",
        [*SAME, "data.train={path: '{folder}/data.jsonl'}"],
        "All 40 training questions are evaluation questions, on which a model may remember in place of reasoning.",
        before=_file(_lines()),
    ),
    BadDay(
        "some training questions that are evaluation questions",
        [*JSONL, "data.eval={path: '{folder}/data.jsonl', limit: 3}"],
        "Data: 37 training problems (3 more are evaluation problems and left out).",
        "the others",
        0,
        _file(_lines()),
    ),
    BadDay(
        "a changed question for the audit with the answer of the problem itself",
        ["check", TINY, "rl=null", "curriculum.supervision=none", "data.eval={path: '{folder}/data.jsonl'}"],
        "data.jsonl, line 40, counterfactual 1: the answer is that of the problem, '4'. Change one thing",
        before=_file(_lines(counterfactual={**ROW, "answer": "4"})),
    ),
    BadDay(
        "a file name where a source belongs",
        ["check", TINY, "data.train=train.jsonl"],
        "data.train: it is 'train.jsonl' alone, which may be a file or a dataset; write {path: train.jsonl}",
    ),
    BadDay(
        "a stream without an end",
        ["check", TINY, "data.train={dataset: me/large, streaming: true}"],
        "streaming needs a dataset and a limit, the number of its first rows to fetch",
    ),
    BadDay(
        "a reasoning-gym task without worked solutions, and a number of steps",
        ["check", TINY, "data.train={reasoning_gym: {name: chain_sum, max_steps: 3}, size: 40}"],
        "max_steps is 3, but the task 'chain_sum' of reasoning_gym has no worked solutions",
    ),
]
DAYS = [*REFUSED, *READ_ALL, *SOURCES]
