"""Loading from files and datasets under any column names; GSM8K; the real files where they are present."""

import json
import re
from pathlib import Path

import datasets
import pytest

from neuralese.data import (
    DataError,
    Problem,
    load_problems,
    parse_gsm8k,
    read_problems,
)
from neuralese.data.gsm8k import normalise_number
from neuralese.data.loading import split_lines, split_sentences

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not here")

PROSE = "He sells 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=1072>>1,072.\n#### 1,072"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


def _jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_plain_file_is_read_as_it_is_and_limited(tmp_path):
    rows = [{"question": f"q{i}", "steps": ["s"], "answer": i, "level": i} for i in range(3)]
    path = _jsonl(tmp_path / "p.jsonl", *rows)
    assert load_problems(path=path) == read_problems(path)
    assert load_problems(path=path, columns={}) == read_problems(path)
    assert [problem.answer for problem in load_problems(path=path, limit=2)] == ["0", "1"]
    assert [problem.answer for problem in load_problems(path=path, step_splitter="line", limit=2)] == ["0", "1"]


def test_columns_are_renamed_and_the_rest_is_extra(tmp_path):
    # `answer` exists but is not the column chosen for the answer, so it must not reach the problem in any way.
    row = {"prompt": "q", "cot": " one\n\ntwo \n", "label": 5, "answer": "wrong", "source": "web"}
    path = _jsonl(tmp_path / "p.jsonl", row)
    columns = {"question": "prompt", "steps": "cot", "answer": "label"}
    assert load_problems(path=path, columns=columns) == [Problem("q", ("one", "two"), "5", {"source": "web"})]


def test_one_column_can_serve_two_fields(tmp_path):
    path = _jsonl(tmp_path / "p.jsonl", {"question": "q", "text": "one\ntwo"})
    problems = load_problems(path=path, columns={"steps": "text", "answer": "text"})
    assert problems == [Problem("q", ("one", "two"), "one\ntwo")]


def test_data_without_steps_is_read_when_asked_for(tmp_path):
    path = _jsonl(tmp_path / "p.jsonl", {"question": "q", "answer": "a"})
    assert load_problems(path=path, columns={"steps": None}) == [Problem("q", (), "a")]
    with pytest.raises(DataError, match=r"there is no column 'steps' for steps; .*{'steps': None}"):
        load_problems(path=path, columns={"question": "question"})


def test_an_unknown_column_is_an_error_that_names_those_that_exist(tmp_path):
    good = {"question": "q", "steps": [], "label": "a"}
    path = _jsonl(tmp_path / "p.jsonl", good, {"question": "q", "steps": [], "lable": "a"})
    said = r"p\.jsonl, line 2: there is no column 'label' for answer; the columns are question, steps, lable\. Did"
    with pytest.raises(DataError, match=said):
        load_problems(path=path, columns={"answer": "label"})


def test_splitters():
    assert split_lines(" a. b \n\n c") == ["a. b", "c"]
    text = "It costs 3.50 dollars. Is that 7? yes! So be it.\nEnd"
    assert split_sentences(text) == ["It costs 3.50 dollars.", "Is that 7? yes!", "So be it.", "End"]


def test_the_sentence_splitter_is_used_for_a_steps_string(tmp_path):
    path = _jsonl(tmp_path / "p.jsonl", {"question": "q", "steps": "One. Two.", "answer": "a"})
    assert load_problems(path=path, step_splitter="sentence")[0].steps == ("One.", "Two.")
    assert load_problems(path=path, step_splitter="line")[0].steps == ("One. Two.",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Set exactly one"),
        ({"path": "a", "dataset": "b"}, "Set exactly one"),
        ({"path": "a", "name": "main"}, "a file has no configurations"),
        ({"path": "a", "limit": 0}, "limit is 0"),
        ({"path": "a", "limit": "9"}, "limit is '9'"),
        ({"path": "a", "step_splitter": "sentense"}, "Did you mean 'sentence'"),
        ({"path": "a", "columns": {"questoin": "q"}}, "'questoin'. Did you mean 'question'"),
        ({"path": "a", "columns": {"answer": None}}, r"columns\['answer'\] is None"),
    ],
)
def test_arguments_are_checked(arguments, said):
    with pytest.raises(DataError, match=said):
        load_problems(**arguments)


def test_csv_and_parquet(tmp_path):
    csv = tmp_path / "p.csv"
    csv.write_text('prompt,cot,label,level\nq0,"one\ntwo",None,1\nq1,,7,2\n')
    columns = {"question": "prompt", "steps": "cot", "answer": "label"}
    expected = [Problem("q0", ("one", "two"), "None", {"level": 1}), Problem("q1", (), "7", {"level": 2})]
    assert load_problems(path=csv, columns=columns) == expected

    parquet = tmp_path / "p.parquet"
    rows = {"question": ["a", "b"], "steps": [["1", "2"], []], "answer": [2, 3]}
    datasets.Dataset.from_dict(rows).to_parquet(str(parquet))
    assert load_problems(path=parquet) == [Problem("a", ("1", "2"), "2"), Problem("b", (), "3")]
    assert load_problems(path=parquet, limit=1) == [Problem("a", ("1", "2"), "2")]


def test_errors_of_tables(tmp_path):
    broken = tmp_path / "p.parquet"
    broken.write_text("not parquet")
    with pytest.raises(DataError, match=r"p\.parquet could not be read as parquet: \w+: "):
        load_problems(path=broken)
    with pytest.raises(DataError, match=r"does not exist. Did you mean 'p.parquet'"):
        load_problems(path=tmp_path / "q.parquet")
    csv = tmp_path / "p.csv"
    csv.write_text("question,steps,answer\nq,s,a\nq,s,\n")
    with pytest.raises(DataError, match=r"p\.csv, row 1: answer is empty"):
        load_problems(path=csv)


def test_a_dataset_folder_with_splits(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    _jsonl(folder / "train.jsonl", {"question": "q", "steps": ["s"], "answer": "train"})
    _jsonl(folder / "test.jsonl", {"question": "q", "steps": ["s"], "answer": "test"})
    assert [problem.answer for problem in load_problems(dataset=str(folder))] == ["train"]
    assert [problem.answer for problem in load_problems(dataset=str(folder), split="test")] == ["test"]
    with pytest.raises(DataError, match=r"split 'dev'.*could not be loaded.*that the name and the split exist"):
        load_problems(dataset=str(folder), split="dev")


def test_a_hub_failure_says_what_to_check(monkeypatch):
    asked = []

    def offline(*arguments, **options):
        asked.append((arguments, options))
        raise ConnectionError("Couldn't reach the Hub\nlong trace")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"'me/set' .*ConnectionError: Couldn't reach the Hub. Check the spelling"
    ) as info:
        load_problems(dataset="me/set", name="main", split="test")
    assert asked == [(("me/set", "main"), {"split": "test"})]
    assert isinstance(info.value.__cause__, ConnectionError)


def test_a_dataset_row_is_named_by_split_and_index(monkeypatch):
    rows = [{"question": "q", "steps": [], "answer": "a"}, {"question": "", "steps": [], "answer": "a"}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(DataError, match=r"me/set \('test'\), row 1: question is ''"):
        load_problems(dataset="me/set", split="test")
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: [])
    with pytest.raises(DataError, match="me/set has no rows"):
        load_problems(dataset="me/set")


def test_gsm8k_prose():
    problem = parse_gsm8k({"question": "q", "answer": PROSE, "id": 4}, "here")
    assert problem == Problem("q", ("<<48/2=24>>", "<<48+24=1072>>"), "1072", {"id": 4})
    assert parse_gsm8k({"question": "q", "answer": "No sums.\n#### -3"}, "here") == Problem("q", (), "-3")


def test_gsm8k_aug_from_a_string_and_from_a_list():
    expected = Problem("q", ("<<1+1=2>>", "<<2*3=6>>"), "5000")
    assert parse_gsm8k({"question": "q", "steps": "<<1+1=2>> <<2*3=6>>", "answer": "5,000"}, "x") == expected
    assert parse_gsm8k({"question": "q", "steps": ["<<1+1=2>>", "<<2*3=6>>"], "answer": "5,000"}, "x") == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2,125", "2125"),
        (" 1,450,000 ", "1450000"),
        ("$18", "18"),
        ("$ 18.00.", "18"),
        ("-$3", "-3"),
        ("$-3", "-3"),
        ("18.", "18"),
        ("1,234.50", "1234.50"),
        ("10.05", "10.05"),
        (".5", ".5"),
        ("100", "100"),
        ("1,2", "1,2"),  # no thousands
        ("12,34,567", "12,34,567"),
        ("3/4", "3/4"),
        (" 5 apples. ", "5 apples."),
        ("v1.0", "v1.0"),
    ],
)
def test_answers_that_are_numbers_are_written_in_one_way(text, number):
    assert normalise_number(text) == number
    assert parse_gsm8k({"question": "q", "answer": f"<<1=1>>#### {text}"}, "here").answer == number
    assert parse_gsm8k({"question": "q", "steps": [], "answer": text}, "here").answer == number


@pytest.mark.parametrize("splitter", [None, "gsm8k"])
def test_malformed_rows_are_counted(tmp_path, splitter):
    good, bad = {"question": "q", "steps": [], "answer": "1"}, {"question": "q", "steps": [], "answer": ""}
    path = _jsonl(tmp_path / "p.jsonl", good, bad, good, {"question": "", "steps": [], "answer": "1"}, bad)
    with pytest.raises(DataError, match=r"line 2: answer is empty.* In all 3 of 5 rows are malformed\.$"):
        load_problems(path=path, step_splitter=splitter)
    path = tmp_path / "p.json"
    path.write_text(json.dumps([good, good, bad]))
    with pytest.raises(DataError, match=r"p\.json, index 2: answer is empty.*row\.$"):
        load_problems(path=path, step_splitter=splitter)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "q", "answer": "24"}, "answer is '24'.*ends with '####"),
        ({"question": "q", "answer": 24}, "answer is 24.*ends with '####"),
        ({"question": "q", "answer": "<<1=1>> #### "}, "answer is empty"),
        ({"question": "q", "steps": "<<1=1>> so <<2=2>>", "answer": "2"}, "steps has 'so'"),
        ({"question": "q", "steps": "<<1=1>", "answer": "2"}, "steps has '<<1=1>'"),
    ],
)
def test_malformed_gsm8k_rows_are_named(tmp_path, row, said):
    with pytest.raises(DataError, match=f"line 2: {said}"):
        load_problems(path=_jsonl(tmp_path / "g.jsonl", {"question": "q", "answer": PROSE}, row), step_splitter="gsm8k")


def test_gsm8k_under_other_column_names(tmp_path):
    path = _jsonl(tmp_path / "g.jsonl", {"q": "x", "a": PROSE})
    problem = load_problems(path=path, columns={"question": "q", "answer": "a"}, step_splitter="gsm8k")[0]
    assert (problem.question, problem.answer, problem.extra) == ("x", "1072", {})
    path = _jsonl(tmp_path / "aug.jsonl", {"question": "x", "cot": "<<1+1=2>> <<2*3=6>>", "answer": "6"})
    assert load_problems(path=path, columns={"steps": "cot"}, step_splitter="gsm8k")[0].steps[1] == "<<2*3=6>>"
    with pytest.raises(DataError, match="no column 'chain' for steps"):
        load_problems(path=path, columns={"steps": "chain"}, step_splitter="gsm8k")


@needs_real
def test_the_real_gsm8k_test_set():
    problems = load_problems(path=REAL / "gsm8k_test.jsonl", step_splitter="gsm8k")
    assert len(problems) == 1319
    assert problems[0].steps == ("<<16-3-4=9>>", "<<9*2=18>>")
    assert [problem.answer for problem in problems[:5]] == ["18", "3", "70000", "540", "20"]
    assert all(re.fullmatch(r"-?\d+(\.\d+)?", problem.answer) for problem in problems)
    assert sum(not problem.steps for problem in problems) == 18
    commas = {146: "2125", 201: "114200"}
    assert {index: problems[index].answer for index in commas} == commas
    assert sum(int(problem.answer) < 0 for problem in problems) == 2


@needs_real
def test_the_real_gsm8k_aug_set():
    problems = load_problems(path=REAL / "gsm8k_aug_valid.json", step_splitter="gsm8k")
    assert len(problems) == 500
    plain = load_problems(path=REAL / "gsm8k_aug_valid.json")
    changed = {a.answer: b.answer for a, b in zip(plain, problems, strict=True) if a != b}
    assert changed == {"5,000": "5000", "30,000": "30000", "27,200": "27200", "3,380": "3380"}
    assert all(re.fullmatch(r"\d+", problem.answer) for problem in problems)
    assert problems[0].steps == ("<<4-2=2>>", "<<2/.5=4>>", "<<12/4=3>>", "<<100*3=300>>")
    assert [index for index, problem in enumerate(problems) if not problem.steps] == [89, 186, 327, 411, 445, 468]


@needs_real
def test_the_real_prosqa_set():
    problems = read_problems(REAL / "prosqa_valid.json")
    assert len(problems) == 300
    assert problems[0].answer == "Tom is a lempus."
    assert problems[0].steps == ("Tom is a terpus.", "Every terpus is a brimpus.", "Every brimpus is a lempus.")
    assert problems[0].extra["target"] == 16
