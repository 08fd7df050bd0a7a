"""The Problem schema and its files: what is accepted, and what each error says."""

import json
import os
from pathlib import Path

import pytest

from neuralese.data import (
    DataError,
    Problem,
    UserError,
    parse_problem,
    read_problems,
    write_problems,
)

ROW = {"question": "1 + 1 =", "steps": ["2"], "answer": "2"}


def _file(folder: Path, text: str, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_row_becomes_a_problem_and_a_row_again():
    row = {**ROW, "steps": ["1", "2"], "level": 3, "tags": ["a"]}
    problem = parse_problem(row, "here")
    assert problem == Problem("1 + 1 =", ("1", "2"), "2", {"level": 3, "tags": ["a"]})
    assert problem.to_dict() == row
    assert list(problem.to_dict()) == ["question", "steps", "answer", "level", "tags"]


def test_problems_can_be_hashed_although_extra_is_a_dict():
    assert len({parse_problem(ROW, "a"), parse_problem(ROW, "b"), Problem("other", (), "1")}) == 2


@pytest.mark.parametrize(
    ("answer", "text"),
    [(18, "18"), (-3, "-3"), (0.5, "0.5"), (18.0, "18"), (" 5 apples\n", "5 apples"), (0, "0"), ("18.0", "18.0")],
)
def test_numbers_become_text_and_answers_are_stripped(answer, text):
    assert parse_problem({**ROW, "answer": answer}, "here").answer == text


def test_blank_steps_are_dropped_and_no_steps_are_allowed():
    assert parse_problem({**ROW, "steps": [""]}, "here").steps == ()
    assert parse_problem({**ROW, "steps": ["1", " ", "2"]}, "here").steps == ("1", "2")
    assert parse_problem({**ROW, "steps": []}, "here").steps == ()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"question": ""}, "question is ''"),
        ({"question": "  "}, "question is '  '"),
        ({"question": 7}, "question is 7"),
        ({"steps": "2"}, "steps is str '2'"),
        ({"steps": None}, "steps is NoneType None"),
        ({"steps": ["1", 2]}, r"steps\[1\] is int 2"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": " \n"}, "answer is empty"),
        ({"answer": None}, "answer is NoneType None"),
        ({"answer": True}, "answer is bool True"),
        ({"answer": ["2"]}, "answer is list"),
        ({"answer": float("nan")}, "answer is nan"),
        ({"answer": float("inf")}, "answer is inf"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(change, said):
    with pytest.raises(DataError, match=f"^set.jsonl, line 4: {said}"):
        parse_problem({**ROW, **change}, "set.jsonl, line 4")


@pytest.mark.parametrize("key", ["question", "steps", "answer"])
def test_a_missing_key_is_named_with_those_found(key):
    row = {other: value for other, value in ROW.items() if other != key} | {f"{key}s": "x"}
    with pytest.raises(DataError, match=f"^here: '{key}' is missing; found .*Did you mean '{key}s'"):
        parse_problem(row, "here")


def test_a_row_that_is_no_object_is_an_error():
    with pytest.raises(UserError, match=r"here: expected an object .*got list"):
        parse_problem([1, 2], "here")  # type: ignore[arg-type]


def test_extra_columns_cannot_hide_a_field():
    with pytest.raises(DataError, match="'answer' has the name of a field"):
        Problem("q", (), "a", {"answer": "b"})


def test_jsonl_with_blank_lines_a_mark_and_a_line_separator_in_a_string(tmp_path):
    odd = {**ROW, "question": "a\u2028b"}
    text = "\ufeff" + json.dumps(ROW) + "\r\n\n" + json.dumps(odd, ensure_ascii=False) + "\n"
    assert [problem.question for problem in read_problems(_file(tmp_path, text))] == ["1 + 1 =", "a\u2028b"]


def test_a_json_list_is_told_by_its_content(tmp_path):
    path = _file(tmp_path, " \n" + json.dumps([ROW, {**ROW, "answer": 3}], indent=1), "list.txt")
    assert [problem.answer for problem in read_problems(str(path))] == ["2", "3"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("[]", "is an empty list"),
        ("[{]", "starts with '\\['"),
        (json.dumps(ROW) + "\n\n{oops}\n", r"p\.jsonl, line 3: not JSON.*'\{oops\}'"),
        (json.dumps(ROW) + '\n{"question": "q"}\n', r"p\.jsonl, line 2: 'steps' is missing"),
        (json.dumps([ROW, {"question": "q"}]), r"p\.jsonl, index 1: 'steps' is missing"),
        (json.dumps([ROW, "text"]), r"p\.jsonl, index 1: expected an object"),
    ],
)
def test_errors_of_a_file_name_the_line_or_the_index(tmp_path, text, said):
    with pytest.raises(DataError, match=said):
        read_problems(_file(tmp_path, text))


def test_a_missing_file_suggests_a_near_name(tmp_path):
    _file(tmp_path, "x", "train.jsonl")
    with pytest.raises(DataError, match=r"does not exist. Did you mean 'train.jsonl'"):
        read_problems(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="nor does its folder"):
        read_problems(tmp_path / "nowhere" / "train.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        read_problems(tmp_path)


def test_a_file_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"question": "caf\xe9"}')
    with pytest.raises(DataError, match="not UTF-8"):
        read_problems(path)


def test_written_problems_are_read_again(tmp_path):
    problems = [Problem("été?", ("a", "b"), "oui", {"n": 1}), Problem("x", (), "y")]
    path = tmp_path / "new" / "p.jsonl"
    write_problems(path, problems)
    assert read_problems(path) == problems
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


@pytest.mark.parametrize("value", [{1, 2}, "\ud800"])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, value):
    path = _file(tmp_path, "old")
    with pytest.raises(DataError, match="Problem 1 cannot be written"):
        write_problems(path, [Problem("q", (), "a"), Problem("q", (), "a", {"bad": value})])
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["p.jsonl"]
