"""Rows as they stand in files: keys that stand twice, what Python cannot hold, lists read row by row."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from neuralese.data import (
    DataError,
    Problem,
    load_problems,
    parse_problem,
    read_problems,
)
from neuralese.data.rows import read_rows

ROW = {"question": "q", "steps": ["s"], "answer": "1"}
LINE = json.dumps(ROW)


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("space", ["", " ", "\n\t", "\r\n"])
def test_a_list_has_the_rows_that_json_loads_reads(tmp_path, space):
    rows = [ROW, {**ROW, "level": 2**63, "x": {"a": [1, {"b": None}], "c": "],["}}, [], "text", 1.5, None]
    text = f"{space}[{space}" + f"{space},{space}".join(json.dumps(row) for row in rows) + f"{space}]{space}"
    path = written(tmp_path / "p.json", text)
    assert list(read_rows(path)) == [(f"{path}, index {index}", row) for index, row in enumerate(json.loads(text))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", r"Expecting ',' delimiter: line 1 column 6"),
        ("[1,", r"Expecting value: line 1 column 4"),
        ("[1,]", r"Illegal trailing comma .*line 1 column 4"),
        ("[1]\n]", r"Extra data: line 1 column 4"),
        ("[1\n2]", r"Expecting ',' delimiter: line 2 column 1"),
        ("[{]", r"Expecting property name .*column 3"),
    ],
)
def test_a_broken_list_says_where(tmp_path, text, message):
    path = written(tmp_path / "p.json", text)
    with pytest.raises(DataError, match=rf"p\.json starts with '\[' but is not a JSON list: {message}"):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("extra", "key"),
    [('"answer": "2"', "answer"), ('"x": {"a": 1, "b": 2, "a": 1}', "a"), ('"x": [{"a": 1, "\\u0061": 1}]', "a")],
)
def test_a_key_that_stands_twice_is_named_with_its_row(tmp_path, extra, key):
    bad = f"{LINE[:-1]}, {extra}}}"
    with pytest.raises(DataError, match=rf"p\.jsonl, line 2: the key '{key}' stands twice in an object"):
        read_problems(written(tmp_path / "p.jsonl", f"{LINE}\n{bad}\n"))
    with pytest.raises(DataError, match=rf"p\.json, index 1: the key '{key}' stands twice in an object"):
        read_problems(written(tmp_path / "p.json", f"[{LINE}, {bad}]"))


@pytest.mark.parametrize("open_, close", [("[", "]"), ('{"a": ', "}")])
def test_what_is_nested_without_end_is_named_with_its_row(tmp_path, open_, close):
    deep = open_ * 100_000 + "1" + close * 100_000
    bad = f'{LINE[:-1]}, "x": {deep}}}'
    with pytest.raises(DataError, match=r"line 2: nested too deep to be read"):
        read_problems(written(tmp_path / "p.jsonl", f"{LINE}\n{bad}\n"))
    with pytest.raises(DataError, match=r"index 1: nested too deep to be read"):
        read_problems(written(tmp_path / "p.json", f"[{LINE}, {bad}]"))


def test_a_column_has_at_most_a_hundred_levels():
    def nested(levels):
        value = 1
        for _ in range(levels):
            value = [value]
        return value

    assert parse_problem({**ROW, "x": nested(100)}, "here").extra == {"x": nested(100)}
    with pytest.raises(DataError, match="^here: x is nested more than 100 levels deep"):
        parse_problem({**ROW, "x": nested(101)}, "here")


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"question": "q\ud800"}, "question"),
        ({"steps": ["s", "\udfff"]}, "steps"),
        ({"answer": "\ud800"}, "answer"),
        ({"x": {"a": ["\ud800"]}}, "x"),
        ({"x": {"\ud800": 1}}, "x"),
        ({"\ud800": 1}, "\\\\ud800"),
    ],
)
def test_half_a_character_is_named(tmp_path, change, column):
    path = written(tmp_path / "p.jsonl", f"{LINE}\n{json.dumps({**ROW, **change})}\n")
    with pytest.raises(DataError, match=rf"line 2: '{column}' has the lone surrogate '\\ud[8f]"):
        read_problems(path)
    assert read_problems(written(path, json.dumps({**ROW, "x": "\U0001f600"})))[0].extra == {"x": "\U0001f600"}


def test_an_answer_with_the_marker_of_answers_is_refused():
    with pytest.raises(DataError, match=r"^here: answer '24 #### 24' holds '###', .* none could ever be right"):
        parse_problem({**ROW, "answer": "24 #### 24"}, "here")
    assert parse_problem({**ROW, "answer": "## 2", "steps": ["### 3"]}, "here").answer == "## 2"


def test_a_column_that_stands_twice_in_a_table_is_named(tmp_path):
    path = written(tmp_path / "p.csv", "question,steps,answer,answer\nq,s,1,2\n")
    with pytest.raises(DataError, match=r"p\.csv: the column 'answer' stands twice in the header"):
        load_problems(path=path)
    with pytest.raises(DataError, match=r"q\.csv is not UTF-8 text"):
        (tmp_path / "q.csv").write_bytes("question,steps,answer\nq,s,1\n".encode("utf-16"))
        load_problems(path=tmp_path / "q.csv")


@pytest.mark.parametrize("name", ["a b.csv", "é [1] *?.csv", "a b.parquet", "[x] é.parquet", "a [b] é.jsonl"])
def test_any_path_is_a_path(tmp_path, name):
    path = tmp_path / "fold er [é]" / name
    path.parent.mkdir()
    if path.suffix == ".csv":
        written(path, "question,steps,answer\nq,s,1\n")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), path)
    else:
        written(path, LINE)
    assert load_problems(path=path) == [Problem("q", ("s",), "1")]
