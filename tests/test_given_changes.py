"""Changed questions that the data gives: how they are read, which are taken, what they keep, and what is refused."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from test_cli import neuralese

from neuralese.data.conversation import Conversation
from neuralese.data.errors import DataError
from neuralese.data.loading import load_problems
from neuralese.data.tasks import change_one
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe

ROW = {"question": "red, swap", "steps": ["blue", "white"], "answer": "white"}
OTHER = {"question": "blue, swap", "steps": ["red", "black"], "answer": "black"}
EQUATION = {"question": "13 eggs, 4 more", "steps": ["13+4=17"], "answer": "17"}


@pytest.fixture
def given(tmp_path):
    """Reads one row with a changed question."""

    def read(counterfactual, row=ROW, **options):
        path = tmp_path / "eval.jsonl"
        path.write_text(json.dumps({**row, "counterfactual": counterfactual}) + "\n")
        return load_problems(path=path, **options)[0]

    return read


def test_a_given_change_is_taken_with_the_other_columns(given):
    problem = given({**OTHER, "level": 2}, {**ROW, "level": 1, "source": "cups"})
    other = change_one(None, {}, problem, 0)
    assert (other.question, other.steps, other.answer) == ("blue, swap", ("red", "black"), "black")
    assert other.extra == {"level": 2, "source": "cups"}
    assert other.named.endswith("eval.jsonl, line 1, counterfactual 1")


def test_one_of_several_is_drawn_by_seed_and_problem(given):
    problem = given([{**OTHER, "question": f"blue, swap {i}"} for i in range(20)])
    drawn = {seed: change_one(None, {}, problem, seed).question for seed in range(20)}
    assert len(set(drawn.values())) > 3
    assert drawn == {seed: change_one(None, {}, problem, seed).question for seed in range(20)}


def test_the_change_must_be_in_the_steps_that_latents_stand_for(given):
    late = {**OTHER, "steps": ["blue", "black"]}
    assert change_one(None, {}, given(late), 0, within=2) is not None
    assert change_one(None, {}, given(late), 0, within=1) is None
    assert change_one(None, {}, given([late, OTHER]), 0, within=1).steps == ("red", "black")
    without = given({**OTHER, "steps": []}, {**ROW, "steps": []})
    assert change_one(None, {}, without, 0, within=1).answer == "black"  # nobody knows what latents stand for


def test_they_go_before_what_equations_say_and_a_column_without_objects_does_not(given):
    ours = {"question": "13 eggs, 5 more", "steps": ["13+5=18"], "answer": "18"}
    problem = given(ours, EQUATION)
    assert {change_one(None, {}, problem, seed).answer for seed in range(5)} == {"18"}
    for other in (None, [], True, "eggs", ["13", "5"]):
        problem = given(other, EQUATION)
        assert len({change_one(None, {}, problem, seed).answer for seed in range(5)}) > 1
        assert problem.extra == {"counterfactual": other}


def test_questions_of_several_turns_may_be_changed(given):
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "yes?"}]
    asked = [[*turns, {"role": "user", "content": f"swap {color}"}] for color in ("one", "two")]
    other = change_one(None, {}, given({**OTHER, "question": asked[1]}, {**ROW, "question": asked[0]}), 0)
    assert isinstance(other.question, Conversation) and other.question.messages[-1]["content"] == "swap two"


def test_they_are_read_as_the_rows_are(given):
    row = {"prompt": "red, swap", "cot": "blue\nwhite", "label": "c###d"}
    other = {"prompt": "blue, swap", "cot": "red\nblack", "label": "e###f"}
    columns = {"question": "prompt", "steps": "cot", "answer": "label"}
    problem = given(other, row, columns=columns, step_splitter="line", answer_format="boxed")
    changed = change_one(None, {}, problem, 0)
    assert (changed.question, changed.steps, changed.answer) == ("blue, swap", ("red", "black"), "e###f")
    with pytest.raises(DataError, match="counterfactual 1: there is no column 'prompt' for question"):
        given(OTHER, {**row, "label": "c"}, columns=columns)


def test_a_table_gives_all_objects_the_same_keys(tmp_path):
    rows = [{**ROW, "source": "s", "counterfactual": OTHER}, {**EQUATION, "source": "t", "counterfactual": None}]
    rows.append({**ROW, "source": "u", "counterfactual": {**OTHER, "source": "own"}})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "eval.parquet")
    first, none, third = load_problems(path=tmp_path / "eval.parquet")
    assert change_one(None, {}, first, 0).extra == {"source": "s"}
    assert change_one(None, {}, third, 0).extra == {"source": "own"}
    assert change_one(None, {}, none, 0).steps != ("red", "black")


@pytest.mark.parametrize(
    ("counterfactual", "message"),
    [
        ([OTHER, 7], "line 1, counterfactual 2: expected an object, as rows are, got int 7"),
        ({"question": "blue, swap", "answer": "black"}, "counterfactual 1: 'steps' is missing"),
        ({**OTHER, "answer": ""}, "counterfactual 1: answer is empty"),
        ({**OTHER, "answer": "white"}, "counterfactual 1: the answer is that of the problem, 'white'. Change one"),
        ({**OTHER, "question": "red, swap"}, "counterfactual 1: the question is that of the problem"),
        ([OTHER, {**OTHER, "steps": "red"}], "counterfactual 2: steps is str"),
    ],
)
def test_what_is_no_change_is_named_when_data_is_read(given, counterfactual, message):
    with pytest.raises(DataError) as error:
        given(counterfactual)
    assert message in str(error.value)


def _written(tmp_path, name, questions, changed=None):
    rows = [{"question": one, "steps": ["1"], "answer": str(i % 5)} for i, one in enumerate(questions)]
    for row in rows[: 5 if changed else 0]:
        row["counterfactual"] = {"question": changed(row["question"]), "steps": ["2"], "answer": "9"}
    (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data.{name}={{path: '{tmp_path}/{name}.jsonl'}}"


TINY = ROOT / "tests" / "tiny.yaml"
OPTIONS = ["rl=null", "curriculum.supervision=none", "curriculum.eval_problems=8"]


def test_check_says_how_many_there_are(capsys, tmp_path):
    data = _written(tmp_path, "eval", [f"{i} + 1 =" for i in range(12)], lambda question: f"3 + {question}")
    code, out, _ = neuralese(capsys, "check", TINY, data, *OPTIONS)
    assert code == 0 and "Audit: 5 of 12 evaluation problems give changed questions." in out


def test_changed_questions_leave_the_training_problems(tmp_path):
    arguments = [
        _written(tmp_path, "train", [f"{i} + 0 =" for i in range(30)]),
        _written(tmp_path, "eval", [f"{i} + 1 =" for i in range(12)], lambda question: question.replace("1 =", " 0 =")),
    ]
    problems = load_all(load_recipe(TINY, [*arguments, *OPTIONS]))
    kept = {problem.question for problem in [*problems.train, *problems.held_out]}
    assert problems.removed == 5 and kept == {f"{i} + 0 =" for i in range(5, 30)}
