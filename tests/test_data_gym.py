"""Problems of reasoning-gym: steps from worked solutions, splits and templates that cannot overlap, its verifiers."""

import importlib.util
import json
import logging
import os
import subprocess
import sys

import pytest
from runs import tiny

from neuralese.data import DataError, GymTask, Problem, generate_gym, split_of
from neuralese.data.equations import equation_holds
from neuralese.data.gym_library import create_gym
from neuralese.data.prose_equations import equation_steps
from neuralese.pipeline.problems.load import fingerprint, load_all
from neuralese.pipeline.recipe.load import RecipeError
from neuralese.rewards import RewardError, checked, load_reward, reasoning_gym
from neuralese.rewards.score import is_right

needs_library = pytest.mark.skipif(
    not importlib.util.find_spec("reasoning_gym"), reason="reasoning-gym is not installed"
)


@pytest.mark.parametrize(
    ("prose", "steps"),
    [
        ("So 35 × 3 = 105 kiwi\n • In all: 105 + 35 = 140", ["<<35*3=105>>", "<<105+35=140>>"]),
        ("He earned 32 x €28 = €896 for pies.", ["<<32*28=896>>"]),
        ("That is 9*$5 = $45.", ["<<9*5=45>>"]),
        ("It takes 135 clam / 15 clam/minute = 9 minutes", ["<<135/15=9>>"]),
        ("7 days/week * 5 weeks/month = 35 days/month", ["<<7*5=35>>"]),
        ("   - So 110 plants needed - 14 owned = 96 plants", ["<<110-14=96>>"]),
        ("80% of the 100 are swimmers so that's 80% * 100 = 80", ["<<0.8*100=80>>"]),
        ("A price of $1,200.00 - $200 = $1,000.0 is left.", ["<<1200-200=1000>>"]),
        ("James = 0.5 * 442 + 7 = 228 points\nJennifer = 442 points", ["<<0.5*442+7=228>>"]),
        ("(5 + 3) * 2=16. Then 16 ÷ 4=4, at 7.", ["<<(5+3)*2=16>>", "<<16/4=4>>"]),
        ("On day 5 30*2 = 60", ["<<30*2=60>>"]),
        ("No equation at all: 5 apples.", []),
        ("James receives 48=48 emails", None),  # computes nothing
        ("half * 184 grasshoppers = 92 wasps", None),
        ("0.88*40 = 35 students", None),  # wrong
        ("50% * 50% = 25%", None),
        ("5 + 2(16) = 37", None),
        ("He has 10 - 5 = 5 - 3 = 2 left.", ["<<10-5=5>>", "<<5-3=2>>"]),
        ("5*(2+3) = 5*5 = 25", None),
        ("3 * 2 = 6 and 2x=84", None),
    ],
)
def test_equations_of_prose(prose, steps):
    assert equation_steps(prose) == steps
    assert all(equation_holds(step) for step in steps or [])


def gsm(size=40, split="train", seed=0, **settings):
    return generate_gym(GymTask("gsm_symbolic", **settings), size, split, seed)


@needs_library
def test_gsm_symbolic_has_equations_that_lead_to_the_answer():
    problems = gsm(200, min_steps=2, max_steps=4)
    assert {len(problem.steps) for problem in problems} == {2, 3, 4}
    for problem in problems:
        assert all(equation_holds(step) and len(step) <= 24 for step in problem.steps)
        assert problem.steps[-1].endswith(f"={problem.answer}>>")
        # The solution has just as many equations as the library writes `=` behind a digit or a unit.
        solution = problem.extra["entry"]["metadata"]["answer_cot"]
        assert len(problem.steps) <= solution.count("=") <= 2 * len(problem.steps)
        assert float(problem.answer) == float(problem.extra["entry"]["answer"])
    assert any(len(step) > 14 for problem in problems for step in problem.steps)
    assert all(len(step) <= 14 for problem in gsm(max_step_chars=14) for step in problem.steps)


@needs_library
def test_problems_without_steps_are_kept_when_asked_for():
    problems = gsm(100, min_steps=0)
    assert {len(problem.steps) for problem in problems} > {0, 2, 3}
    assert all(problem.steps for problem in gsm(100))


@needs_library
def test_the_seed_alone_decides_and_splits_are_disjoint():
    first = gsm(60)
    assert gsm(60) == first and gsm(20) == first[:20] and gsm(60, seed=1) != first
    train, held = gsm(300), gsm(100, "eval")
    assert {split_of(problem.question) for problem in train} == {"train"}
    assert {split_of(problem.question) for problem in held} == {"eval"}
    assert len({problem.question for problem in train}) == 300


@needs_library
def test_problems_are_the_same_in_another_process():
    code = (
        "from neuralese.data.gym import GymTask, generate_gym\n"
        "print([p for name in %r for p in generate_gym(GymTask(name), 5, 'train', 0)])"
    )
    names = ("gsm_symbolic", "word_sorting", "course_schedule", "family_relationships")
    here = [problem for name in names for problem in generate_gym(GymTask(name), 5, "train", 0)]
    other = {**os.environ, "PYTHONHASHSEED": "1"}  # in which sets of texts have another order
    said = subprocess.run(
        [sys.executable, "-c", code % (names,)], env=other, capture_output=True, text=True, check=True
    )
    assert said.stdout == f"{here}\n"


@needs_library
def test_templates_are_held_out_whole():
    seen, unseen = gsm(200, templates="seen"), gsm(40, "eval", templates="unseen")
    assert {problem.extra["template"] % 5 == 4 for problem in seen} == {False}
    assert {problem.extra["template"] % 5 == 4 for problem in unseen} == {True}
    assert len({problem.extra["template"] for problem in seen}) > 30
    assert {problem.extra["template"] for problem in gsm(40, templates=(58, 70))} == {58, 70}
    # The number is that of the library's generator: 70 tells of a bag that was dropped.
    assert all("bag of" in problem.question for problem in gsm(20, templates=(70,)))


@needs_library
def test_a_task_without_steps():
    (problem, *_) = generate_gym(GymTask("chain_sum", {"min_terms": 2, "max_terms": 2}), 20, "train", 0)
    assert problem.steps == () and len(problem.extra["entry"]["metadata"]["expression"].split()) == 3
    assert eval(problem.extra["entry"]["metadata"]["expression"]) == int(problem.answer)
    assert set(problem.extra) == {"entry"} and problem.extra["entry"]["options"] == {"min_terms": 2, "max_terms": 2}


@needs_library
@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("chain_summ", {}, "no task 'chain_summ'. Did you mean 'chain_sum'"),
        ("chain_sum", {"options": {"min_term": 2}}, "no option 'min_term'. Did you mean 'min_terms'"),
        ("chain_sum", {"options": {"seed": 2}}, "no option 'seed'"),
        ("chain_sum", {"options": {"min_terms": -2}}, r"options {'min_terms': -2}: AssertionError: min_terms must be"),
        ("chain_sum", {"max_steps": 3}, "max_steps is 3, but the task 'chain_sum' .* has no worked solutions"),
        ("chain_sum", {"templates": "seen"}, "templates is 'seen', but the task 'chain_sum'"),
        ("boxnet", {}, "'boxnet' of reasoning_gym has no written answers"),
        ("gsm_symbolic", {"templates": "unsen"}, "templates is 'unsen'. Did you mean 'unseen'"),
        ("gsm_symbolic", {"templates": (32,)}, r"templates is \[32\]. It must be .* of templates: 0, 1, 2"),
        ("gsm_symbolic", {"templates": ()}, r"templates is \[\]"),
        ("gsm_symbolic", {"templates": (82,)}, "2000 draws in a row .* gave no problem that can be used"),
        ("gsm_symbolic", {"max_steps": 0}, "max_steps is 0"),
        ("gsm_symbolic", {"min_steps": 3, "max_steps": 2}, "max_steps is 2. It must be an integer of at least 3"),
    ],
)
def test_settings_are_checked(name, settings, said):
    with pytest.raises(DataError, match=said):
        generate_gym(GymTask(name, **settings), 3, "train", 0)


@needs_library
def test_more_problems_than_there_are_is_an_error():
    with pytest.raises(DataError, match="size is 50, but the train split of GymTask.* holds about 3 different"):
        generate_gym(GymTask("coin_flip", {"min_trials": 1, "max_trials": 1}), 50, "train", 0)


def test_the_missing_library_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(DataError, match=r"needs the library reasoning-gym. Install it: pip install 'neuralese\[reason"):
        create_gym("chain_sum", {}, 0, 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RewardError, match=r"reward 'reasoning_gym' needs .*'neuralese\[reasoning-gym\]'"):
        load_reward("reasoning_gym")


SOURCE = "reasoning_gym: {name: gsm_symbolic, min_steps: 2, max_steps: 2, templates: %s}, size: %s"


@needs_library
def test_a_recipe_with_a_source_and_a_scorer(tmp_path, caplog):
    parts = {"train": SOURCE % ("seen", 60), "eval": SOURCE % ("[4, 9, 14]", 12)}
    data = [f"data.{part}={{{source}}}" for part, source in parts.items()]
    recipe = tiny(tmp_path, *data, "rl=null", "evaluate.scorer=reasoning_gym", "evaluate.problems=10")
    with caplog.at_level(logging.WARNING):
        problems = load_all(recipe)
    assert not caplog.records and problems.removed == 0
    assert len(problems.train) + len(problems.held_out) == 60 and len(problems.evaluation) == 10
    assert {problem.extra["template"] for problem in problems.evaluation} <= {4, 9, 14}
    assert problems.record == fingerprint(problems.train) == load_all(recipe).record
    right = [[f"### {problem.answer}", "### -1", "nothing"] for problem in problems.evaluation]
    assert is_right("reasoning_gym", problems.evaluation, right).tolist() == [[True, False, False]] * 10
    alone = tiny(
        tmp_path, "data.train={reasoning_gym: chain_sum, size: 40, options: {max_terms: 3}}", data[1], "rl=null"
    )
    assert alone.data.train.reasoning_gym.name == "chain_sum"
    assert {len(problem.steps) for problem in load_all(alone).train} == {0}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{reasoning_gym: gsm_symbolic}", "a generated task needs a size"),
        ("{reasoning_gym: gsm_symbolic, task: chain, size: 3}", "exactly one of task, reasoning_gym, path"),
        ("{reasoning_gym: {name: gsm_symbolic, max_step: 3}, size: 3}", "'max_steps'"),
        ("{reasoning_gym: {name: gsm_symbolic, templates: sen}, size: 3}", "templates"),
    ],
)
def test_sources_are_checked(tmp_path, source, said):
    with pytest.raises(RecipeError, match=said):
        tiny(tmp_path, f"data.train={source}")


@needs_library
def test_the_verifier_judges_by_the_options_of_the_problem():
    (problem, *_) = generate_gym(GymTask("countdown", {"min_numbers": 3, "max_numbers": 3}), 5, "train", 0)
    numbers, target = (problem.extra["entry"]["metadata"][key] for key in ("numbers", "target"))
    assert target not in numbers
    # Any expression that reaches the target is right, not only the one in the data.
    other = f"({problem.answer}) + 0 * ({problem.answer})"
    completions = [f"I think. ### {problem.answer}", problem.answer, f"### {target}", "### ", f"### {other}"]
    rewards = reasoning_gym([""] * 5, completions, entry=[problem.extra["entry"]] * 5)
    assert rewards[:2] == [1.0, 1.0] and all(0 <= reward < 0.5 for reward in rewards[2:])
    assert reasoning_gym(["", ""], ["### 1", "### 2"], entry=[None, problem.extra["entry"]])[0] is None


@needs_library
def test_line_ends_of_an_answer_reach_the_verifier():
    (problem, *_) = generate_gym(GymTask("rotate_matrix"), 3, "train", 0)
    assert "\n" in problem.answer
    wrong = " ".join(problem.answer.split())
    entry = [problem.extra["entry"]] * 2
    rewards = reasoning_gym([""] * 2, [f"### {problem.answer}\n", f"### {wrong}"], entry=entry)
    assert rewards[0] == 1.0 and rewards[1] < 0.5


@needs_library
def test_the_entry_survives_a_file():
    problem = next(one for one in gsm(100) if "/" in str(one.extra["entry"]["metadata"]["variables"]))  # a Fraction
    read = Problem(**{**vars(problem), "extra": json.loads(json.dumps(problem.extra))})
    assert read == problem
    assert reasoning_gym([""], [f"### {read.answer}.0"], entry=[read.extra["entry"]]) == [1.0]


@needs_library
def test_a_verifier_that_fails(caplog):
    """On an answer: that is wrong. On the problem's own answer too: the reward fails, as others do."""
    (problem, *_) = generate_gym(GymTask("prime_factorization"), 3, "train", 0)
    entry = problem.extra["entry"]
    with caplog.at_level(logging.WARNING):
        assert reasoning_gym([""] * 3, ["### abc", f"### {problem.answer}", "### x"], entry=[entry] * 3) == [0, 1, 0]
    (record,) = caplog.records
    assert "The verifier of prime_factorization failed (ValueError" in record.getMessage()
    broken = {**entry, "metadata": {"source_dataset": "prime_factorization"}, "answer": "no number"}
    call = checked(reasoning_gym, "reasoning_gym")
    with pytest.raises(RewardError, match="Reward 'reasoning_gym' failed with ValueError"):
        call(prompts=[""], completions=["### abc"], entry=[broken])


@needs_library
@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "received no column 'entry'"),
        ({"entry": [{"answer": "1", "metadata": {}}]}, "lacks 'source_dataset'"),
        ({"entry": ["text"]}, "received the entry 'text'"),
        ({"entry": [{"answer": "1", "metadata": {"source_dataset": "gsm_symbolik"}}]}, "Did you mean 'gsm_symbolic'"),
    ],
)
def test_entries_are_checked(columns, said):
    with pytest.raises(RewardError, match=said):
        reasoning_gym([""], ["### 1"], **columns)
