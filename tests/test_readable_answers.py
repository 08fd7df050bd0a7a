"""Answers of the data that a scorer cannot read, and answers that do not fit: counted or refused before training."""

import json
import logging

import pytest
from runs import tiny

from neuralese.data.problem import Problem
from neuralese.pipeline.evaluate.measure import measure
from neuralese.pipeline.model.answer_limits import check_answers_fit
from neuralese.pipeline.problems.encode import Encoded
from neuralese.pipeline.problems.load import load_all, load_evaluation
from neuralese.pipeline.problems.readable_answers import LOOKED_AT, check_golds
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.recipe.schema import EvaluateSection
from neuralese.rewards import RewardError, score
from neuralese.rewards.score import is_right


def asking(*answers, **extra):
    return [Problem(f"q{i}", (), answer, extra) for i, answer in enumerate(answers)]


def test_unreadable_answers_are_counted(caplog):
    with caplog.at_level(logging.WARNING):
        check_golds("evaluate.scorer", "numeric_match", asking("1", "yes", "3/4", "no", "5 km"), "evaluation")
    (record,) = caplog.records
    assert record.getMessage() == (
        "evaluate.scorer: numeric_match cannot read 2 of 5 evaluation answers, the first of which is 'yes': their "
        "completions count as wrong. Choose a reward that can in evaluate.scorer (exact_match compares texts), or "
        "correct the answers."
    )
    caplog.clear()
    check_golds("rl.rewards", "numeric_match", asking("1", "yes"), "training")
    assert "rl.rewards: numeric_match cannot read 1 of 2 training answers" in caplog.text
    assert "their completions get no reward" in caplog.text


@pytest.mark.parametrize("name", ["numeric_match", "math_verify"])
def test_none_readable_is_an_error(name):
    if name == "math_verify":
        pytest.importorskip("math_verify")
    said = (
        f"evaluate.scorer: {name} can read none of 2 evaluation answers, the first of which is 'yes': all completions"
    )
    with pytest.raises(RewardError, match=said):
        check_golds("evaluate.scorer", name, asking("yes", "no"), "evaluation")
    check_golds("evaluate.scorer", name, [], "held-out training")


def test_answers_that_are_wrong_by_their_own_scorer_are_counted(caplog):
    graph = {"edges": [[1, 2]], "start": 1, "goal": 2}
    problems = [*asking("1 2", **graph), *asking("2", "1", **graph)]
    check_golds("evaluate.scorer", "valid_path", problems, "evaluation")
    assert "valid_path takes 2 of 3 evaluation answers, the first of which is '2', for a wrong answer" in caplog.text
    with pytest.raises(RewardError, match="valid_path' failed with TypeError.*'edges'"):
        check_golds("evaluate.scorer", "valid_path", asking("1 2"), "evaluation")


def test_good_answers_say_nothing_and_many_are_looked_at_evenly(caplog):
    problems = asking(*(["7"] * 2 * LOOKED_AT))
    for name in ("exact_match", "numeric_match", "answer_format"):
        check_golds("evaluate.scorer", name, problems, "evaluation")
    assert not caplog.text
    half = asking(*(["7"] * LOOKED_AT), *(["yes"] * LOOKED_AT))
    check_golds("evaluate.scorer", "numeric_match", half, "evaluation")
    assert f"cannot read {LOOKED_AT // 2} of {LOOKED_AT} evaluation answers" in caplog.text


@pytest.fixture
def data(tmp_path):
    """Data overrides: 60 problems, of which every third has a number for an answer."""
    rows = [{"question": f"{i} ?", "steps": ["a"], "answer": "yes" if i % 3 else str(i)} for i in range(60)]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [row | {"question": f"new {row['question']}", "answer": "no"} for row in rows]
    (tmp_path / "no.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = [f"data.{part}={{path: '{tmp_path}/mixed.jsonl'}}" for part in ("train", "eval")]
    return [*both, "data.keep_overlap=true"]


def test_each_set_of_problems_is_asked_about_by_what_judges_it(data, tmp_path, caplog):
    numeric = "{function: numeric_match}"
    recipe = tiny(
        tmp_path, *data, "evaluate.scorer=numeric_match", f"rl.rewards=[{numeric}, {{function: exact_match}}]"
    )
    load_all(recipe)
    for said in ("40 of 60 evaluation answers", "11 of 16 held-out training answers", "29 of 44 training answers"):
        assert said in caplog.text
    caplog.clear()
    chooses = f"evaluate.selection_reward={numeric}"
    load_all(tiny(tmp_path, *data, chooses, "evaluate.selectors=[reward]"))
    assert "evaluate.selection_reward: numeric_match cannot read 40 of 60 evaluation answers" in caplog.text
    no = f"data.eval={{path: '{tmp_path}/no.jsonl'}}"
    with pytest.raises(RewardError, match="none of 60 evaluation answers"):
        load_evaluation(tiny(tmp_path, *data, no, "evaluate.scorer=numeric_match"))
    with pytest.raises(RewardError, match="no column 'num_latents'"):
        load_evaluation(tiny(tmp_path, "evaluate.scorer=latent_cost"))


def test_a_scorer_that_gives_none_says_how_often_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(score, "_told", set())
    file = tmp_path / "some.py"
    file.write_text("def some(completions, **_):\n    return [1.0 if text == 'a' else None for text in completions]\n")
    for _ in range(2):
        right = is_right(f"{file}:some", asking("1", "2"), [["a", "b"], ["b", "b"]])
        assert right.tolist() == [[True, False], [False, False]]
    assert [record.getMessage() for record in caplog.records] == [
        f"The scorer {file}:some gave None, which is no score, to 3 of 4 answers; they count as wrong."
    ]


def test_an_evaluation_says_how_many_answers_have_no_score(reasoner, problems, tmp_path, caplog):
    file = tmp_path / "some.py"
    file.write_text(
        "def some(prompts, completions, **_):\n"
        f"    return [1.0 if prompt == {problems[0].question!r} else None for prompt in prompts]\n"
    )
    settings = EvaluateSection(num_samples=2, k=[1, 2], max_new_tokens=3, bootstrap=10, scorer=f"{file}:some")
    rows = measure(reasoner, problems[:4], settings, "curriculum", 0)
    assert rows[0].value == 0.25
    assert [record.getMessage() for record in caplog.records] == [
        f"The scorer {file}:some gave None, which is no score, to 3 of 4 answers of stage curriculum, greedy; they "
        "count as wrong.",
        f"The scorer {file}:some gave None, which is no score, to 6 of 8 answers of stage curriculum, n2-T1; they "
        "count as wrong.",
    ]


FITS = [Encoded([1], [[1, 2], [3]], [9, 5, 0]), Encoded([1], [], [9, 5, 5, 5, 0])]  # answers of 3 and 5 tokens


@pytest.mark.parametrize(
    ("room", "with_steps", "said"),
    [
        (5, False, None),
        (
            4,
            False,
            "key=4 cuts 1 of 2 training answers, the longest of which has 5 tokens with its marker and end token",
        ),
        (2, False, "key=2 cuts 2 of 2 training answers"),  # without its end token the first is whole
        (6, True, None),
        (
            5,
            True,
            "key=5 cuts 1 of 2 training answers, the longest of which has 6 tokens with its steps, marker and end",
        ),
    ],
)
def test_answers_that_are_cut_are_counted(caplog, room, with_steps, said):
    check_answers_fit("key", room, FITS, "training", with_steps, is_compared=True)
    assert said in caplog.text if said else not caplog.text
    assert not said or "Set key to" in caplog.text


def test_a_limit_that_cuts_every_answer_is_refused_where_answers_are_compared(caplog):
    with pytest.raises(RecipeError, match="key=1 cuts 2 of 2 training answers.* None could be right. Set key to 5 or"):
        check_answers_fit("key", 1, FITS, "training", with_steps=False, is_compared=True)
    check_answers_fit("key", 1, FITS, "training", with_steps=False, is_compared=False)
    assert "key=1 cuts 2 of 2 training answers" in caplog.text
