"""Word problems with one equation (SVAMP, MAWPS, ASDiv), and the <<equations>> of any text."""

import json
import logging
from pathlib import Path

import datasets
import pytest

from neuralese.data import DataError, load_problems
from neuralese.data.equations import equation_holds
from neuralese.data.svamp import parse_svamp

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the real data files are not here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize(
    ("numbers", "equation", "answer", "steps"),
    [
        ("18 10", "- number0 number1", "8.0", ["18-10=8"]),
        ("11 12", "- number1 number0", 1.0, ["12-11=1"]),
        ("70.0 3.0 2.5", "* * * number0 number1 number2 0.01", "5.25", ["70*3=210", "210*2.5=525", "525*0.01=5.25"]),
        ("5 3 2", "* number0 - number1 number2", 5, ["3-2=1", "5*1=5"]),
        ("10 3 6", "* / number0 number1 number2", 20, ["(10/3)*6=20"]),  # 3.333… is no step
        ("76.7 129.9", "* / - number1 number0 number0 100.0", 69.4, ["129.9-76.7=53.2", "(53.2/76.7)*100=69.4"]),
        ("3 5 4", "+ - number0 number1 number2", 2, ["3-5=-2", "(-2)+4=2"]),
        ("8 74", "number0", 8, []),
        ("40 7", "/ number0 number1", 5, []),  # 5.71, so the answer is wrong
        ("34 4", "* number0 number1", 134, []),
        ("5 0", "/ number0 number1", 5, []),
    ],
)
def test_an_equation_becomes_steps(numbers, equation, answer, steps):
    row = {"question": "has number0 of number1", "steps": equation, "answer": answer, "Numbers": numbers}
    problem = parse_svamp(row, "here")
    assert problem.steps == tuple(f"<<{step}>>" for step in steps)
    assert all(equation_holds(step) for step in problem.steps)
    first, second = (number.removesuffix(".0") for number in numbers.split()[:2])
    assert problem.question == f"has {first} of {second}" and problem.answer == str(answer).removesuffix(".0")


def test_a_csv_file(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(
        "Question,Numbers,Equation,Answer,Type\n"
        '"Tom has number0 , then number1 more ?",8 2,+ number0 number1,10.0,Addition\n'
        "Half of number0 ?,9,/ number0 2.0,4.5,Division\n"
    )
    first, second = load_problems(path=path, step_splitter="svamp")
    assert (first.question, first.steps, first.answer) == ("Tom has 8 , then 2 more ?", ("<<8+2=10>>",), "10")
    assert first.extra == {"Numbers": "8 2", "Type": "Addition"}
    assert (second.question, second.steps, second.answer) == ("Half of 9 ?", ("<<9/2=4.5>>",), "4.5")
    # A column with another name is mapped as elsewhere.
    path.write_text(path.read_text().replace("Question,", "Text,"))
    with pytest.raises(DataError, match="no column 'Question' for question; the columns are Text, Numbers"):
        load_problems(path=path, step_splitter="svamp")
    assert load_problems(path=path, step_splitter="svamp", columns={"question": "Text"})[0].question == first.question


def test_the_json_form(tmp_path):
    path = tmp_path / "p.json"
    row = {
        "ID": "chal-1",
        "Body": "Each pack costs 76 dollars.",
        "Question": "How much are 3 , 20 off ?",
        "Answer": 208.0,
    }
    path.write_text(json.dumps([{**row, "Equation": "( ( 76.0 * 3.0 ) - 20.0 )"}]))
    (problem,) = load_problems(path=path, step_splitter="svamp")
    assert problem.question == "Each pack costs 76 dollars. How much are 3 , 20 off ?"
    assert problem.steps == ("<<76*3=228>>", "<<228-20=208>>") and problem.answer == "208"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"steps": "- number0 number2", "Numbers": "18 10"}, "here: number2 is not among the 2 Numbers 18 10"),
        ({"steps": "- number0", "Numbers": "18 10"}, "here: Equation is '- 18'"),
        ({"steps": "number0 number1", "Numbers": "18 10"}, "here: Equation is '18 10'"),
        ({"steps": "( 8.0 - "}, r"here: Equation is '\( 8.0 - '"),
        ({"steps": "eight - 3"}, "here: Equation is 'eight - 3'"),
        ({"steps": None}, "are 'q number0' and None, and not texts"),
        ({"steps": "- number0 number1", "Numbers": "18 10", "answer": None}, "here: answer is NoneType"),
    ],
)
def test_rows_are_checked(row, said):
    with pytest.raises(DataError, match=said):
        parse_svamp({"question": "q number0" if "Numbers" not in row else "q", "answer": 8.0, **row}, "here")


@needs_real
@pytest.mark.parametrize(("name", "count", "without"), [("svamp_dev", 1000, 1), ("mawps_asdiv_train", 3138, 34)])
def test_the_real_files(name, count, without):
    problems = load_problems(path=REAL / f"{name}.csv", step_splitter="svamp")
    assert len(problems) == count and sum(not problem.steps for problem in problems) == without
    assert not any("number0" in problem.question for problem in problems)
    for problem in problems:
        assert all(equation_holds(step) for step in problem.steps)
        assert not problem.steps or problem.steps[-1].endswith(f"={problem.answer}>>")


def test_the_equations_of_any_text(tmp_path):
    path = tmp_path / "p.jsonl"
    rows = [
        {"question": "q", "solution": "He has 48/2 = <<48/2=24>>24.\nSo <<24+1=25>>25.", "answer": "25"},
        {"question": "q", "solution": "Nothing to compute.", "answer": "25"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = load_problems(path=path, columns={"steps": "solution"}, step_splitter="equations")
    assert [problem.steps for problem in problems] == [("<<48/2=24>>", "<<24+1=25>>"), ()]
    with pytest.raises(DataError, match="takes the <<...>> parts of the steps, but none of 2 rows has one"):
        load_problems(path=path, columns={"steps": "question"}, step_splitter="equations")


def test_columns_of_parquet(tmp_path):
    path = tmp_path / "p.parquet"
    datasets.Dataset.from_dict({"prompt": ["a", "b"], "answer": [2, 3]}).to_parquet(str(path))
    said = (
        r"p\.parquet, row 0: there is no column 'question' for question; the columns are prompt, answer\..* all 2 of 2"
    )
    with pytest.raises(DataError, match=said):
        load_problems(path=path)
    with pytest.raises(DataError, match=r"no column 'steps' for steps;.*{'steps': None} reads data without steps"):
        load_problems(path=path, columns={"question": "prompt"})
    assert len(load_problems(path=path, columns={"question": "prompt", "steps": None})) == 2


@pytest.fixture
def shards(tmp_path):
    """A dataset of two files, the second of which is broken."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    rows = [{"question": f"q{i}", "steps": [str(i)], "answer": i, "level": i % 2} for i in range(40)]
    (folder / "train-00000-of-00002.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "train-00001-of-00002.jsonl").write_text("this is no JSON\n")
    return str(tmp_path / "set")


def test_a_stream_reads_the_first_rows_only(shards, tmp_path):
    first = load_problems(dataset=shards, streaming=True, limit=30)
    assert first == load_problems(path=f"{shards}/data/train-00000-of-00002.jsonl")[:30]
    assert first == load_problems(dataset=shards, streaming=True, limit=30)
    assert first[7].extra == {"level": 1} and first[7].named.endswith("row 7")
    logging.getLogger("datasets").setLevel(logging.CRITICAL)
    for options in ({"streaming": True, "limit": 50}, {"limit": 30}):  # the second file is reached, or all is read
        with pytest.raises(DataError, match="could not be loaded"):
            load_problems(dataset=shards, **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "a"}, "streaming is for a dataset, but path is a file"),
        ({"dataset": "a"}, "streaming needs limit"),
        ({"dataset": "a", "limit": 3, "split": "train[:9]"}, r"split is 'train\[:9\]'.*Write the split alone"),
    ],
)
def test_arguments_of_a_stream_are_checked(arguments, said):
    with pytest.raises(DataError, match=said):
        load_problems(**arguments, streaming=True)
