"""Evaluation questions among the training problems: left out and counted, or kept when asked for."""

import json

import pytest
from conftest import ROOT
from test_cli import neuralese

from neuralese.pipeline.problems.load import fingerprint, load_all
from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.run.recipe_changes import differences

TINY = str(ROOT / "tests" / "tiny.yaml")


def _save(path, questions):
    rows = [{"question": question, "steps": ["s"], "answer": "1"} for question in questions]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def overlapping(tmp_path, *changes):
    """A recipe with 30 training problems, of which 6 are evaluation problems, two of these with other white space."""
    _save(tmp_path / "train.jsonl", [f"{i} + 0 =" for i in range(30)])
    _save(tmp_path / "eval.jsonl", ["0 + 0 =", "3 + 0 =", "6  + 0 =", " 9 +\n0 = ", "12 + 0 =", "15 + 0 =", "new ="])
    data = [f"data.{part}={{path: '{tmp_path}/{part}.jsonl'}}" for part in ("train", "eval")]
    options = ["curriculum.eval_problems=8", "rl=null", "curriculum.supervision=none", "tracking.wandb=false"]
    return load_recipe(TINY, [*data, *options, f"output_dir={tmp_path}", *changes])


def test_evaluation_questions_leave_the_training_problems(capsys, caplog, tmp_path):
    problems = load_all(overlapping(tmp_path))
    seen = {problem.question for problem in [*problems.train, *problems.held_out]}
    assert seen == {f"{i} + 0 =" for i in range(30)} - {f"{i} + 0 =" for i in (0, 3, 6, 9, 12, 15)}
    assert (len(problems.train), len(problems.held_out), len(problems.evaluation), problems.removed) == (16, 8, 7, 6)
    assert "6 of 30 training problems were left out: their questions are evaluation questions" in caplog.text
    assert problems.record == f"{fingerprint(problems.train)}, without 6 whose questions are evaluation questions"
    # How many problems are measured on is no part of what is trained on.
    assert load_all(overlapping(tmp_path, "evaluate.problems=1")).record == problems.record
    kept = load_all(overlapping(tmp_path, "data.keep_overlap=true"))
    assert (len(kept.train), kept.removed, kept.record) == (22, 0, fingerprint(kept.train))
    arguments = [f"data.{part}={{path: '{tmp_path}/{part}.jsonl'}}" for part in ("train", "eval")]
    options = ["curriculum.eval_problems=8", "rl=null", "curriculum.supervision=none"]
    code, out, _ = neuralese(capsys, "check", TINY, *arguments, *options)
    assert code == 0 and "Data: 24 training problems (6 more are evaluation problems and left out)." in out


def test_nothing_left_to_train_on_is_an_error(tmp_path):
    recipe = overlapping(tmp_path)
    _save(tmp_path / "eval.jsonl", [f"{i}  + 0 =" for i in range(30)])
    with pytest.raises(RecipeError, match="All 30 training questions are evaluation questions.*keep_overlap=true"):
        load_all(recipe)


def test_a_run_that_kept_the_overlap_goes_on_with_it(tmp_path):
    """Runs of earlier versions kept it. What they were trained on is told by the record, not by the key."""
    recipe, kept = overlapping(tmp_path), overlapping(tmp_path, "data.keep_overlap=true")
    assert differences(recipe, kept) == []
    assert load_all(recipe).record != load_all(kept).record
