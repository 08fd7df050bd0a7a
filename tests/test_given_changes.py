"""Changed questions that the data gives: which are taken, what they keep, and what is refused."""

import json

import pytest
from conftest import ROOT
from test_cli import neuralese

from neuralese.data.conversation import Conversation
from neuralese.data.errors import DataError
from neuralese.data.problem import parse_problem
from neuralese.data.tasks import change_one

OTHER = {"question": "blue, swap", "steps": ["red", "black"], "answer": "black"}


def given(counterfactual, **columns):
    row = {"question": "red, swap", "steps": ["blue", "white"], "answer": "white", "counterfactual": counterfactual}
    return parse_problem({**row, **columns}, "eval.jsonl, line 3")


def test_a_given_change_is_taken_with_the_other_columns():
    problem = given({**OTHER, "level": 2}, level=1, source="cups")
    other = change_one(None, {}, problem, 0)
    assert (other.question, other.steps, other.answer) == ("blue, swap", ("red", "black"), "black")
    assert other.extra == {"level": 2, "source": "cups"}
    assert other.named == "eval.jsonl, line 3, counterfactual 1"


def test_one_of_several_is_drawn_by_seed_and_problem():
    others = [{**OTHER, "question": f"blue, swap {i}"} for i in range(20)]
    drawn = {seed: change_one(None, {}, given(others), seed).question for seed in range(20)}
    assert len(set(drawn.values())) > 3
    assert drawn == {seed: change_one(None, {}, given(others), seed).question for seed in range(20)}


def test_the_change_must_be_in_the_steps_that_latents_stand_for():
    late = {**OTHER, "steps": ["blue", "black"]}
    assert change_one(None, {}, given(late), 0, within=2) is not None
    assert change_one(None, {}, given(late), 0, within=1) is None
    assert change_one(None, {}, given([late, OTHER]), 0, within=1).steps == ("red", "black")


def test_they_go_before_what_equations_say_and_an_empty_column_does_not():
    row = {"question": "13 eggs, 4 more", "steps": ["13+4=17"], "answer": "17"}
    ours = {"question": "13 eggs, 5 more", "steps": ["13+5=18"], "answer": "18"}
    problem = parse_problem({**row, "counterfactual": ours}, "here")
    assert {change_one(None, {}, problem, seed).answer for seed in range(5)} == {"18"}
    for empty in (None, [], {}):
        problem = parse_problem({**row, "counterfactual": empty}, "here")
        assert len({change_one(None, {}, problem, seed).answer for seed in range(5)}) > 1


def test_questions_of_several_turns_may_be_changed():
    turns = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "yes?"}]
    asked = [[*turns, {"role": "user", "content": f"swap {color}"}] for color in ("one", "two")]
    other = change_one(None, {}, given({**OTHER, "question": asked[1]}, question=asked[0]), 0)
    assert isinstance(other.question, Conversation) and other.question.messages[-1]["content"] == "swap two"


@pytest.mark.parametrize(
    ("counterfactual", "message"),
    [
        ("blue, swap", "line 3, counterfactual 1: expected an object with question, steps and answer, got str"),
        ([OTHER, 7], "line 3, counterfactual 2: expected an object"),
        ({"question": "blue, swap", "answer": "black"}, "counterfactual 1: 'steps' is missing"),
        ({**OTHER, "answer": ""}, "counterfactual 1: answer is empty"),
        ({**OTHER, "answer": "white"}, "counterfactual 1: the answer is that of the problem, 'white'. Change one"),
        ({**OTHER, "question": "red, swap"}, "counterfactual 1: the question is that of the problem"),
        ([OTHER, {**OTHER, "steps": "red"}], "counterfactual 2: steps is str"),
    ],
)
def test_what_is_no_change_is_named(counterfactual, message):
    with pytest.raises(DataError) as error:
        change_one(None, {}, given(counterfactual), 0)
    assert message in str(error.value), json.dumps(counterfactual)


def test_check_says_how_many_there_are(capsys, tmp_path):
    rows = [{"question": f"{i} + 1 =", "steps": [str(i + 1)], "answer": str(i + 1)} for i in range(12)]
    for row in rows[:5]:
        row["counterfactual"] = {"question": f"{row['answer']} + 1 =", "steps": ["9"], "answer": "9"}
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = [f"data.eval={{path: '{tmp_path}/eval.jsonl'}}", "rl=null", "curriculum.supervision=none"]
    code, out, _ = neuralese(capsys, "check", ROOT / "tests" / "tiny.yaml", *arguments)
    assert code == 0 and "Audit: 5 of 12 evaluation problems give changed questions." in out
