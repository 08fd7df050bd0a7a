"""Rewards in recipes and on the command line: their keys, their weights, and training that a hung one ends."""

import json

import pytest
from test_cli import TINY, assert_one_paragraph, neuralese
from test_rewards_model import classifier

from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring.recipe_rewards import RewardModel


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("weight: 1.0", "exactly one of function .* and model"),
        ("function: exact_match, model: judge", "exactly one of function .* and model"),
        ("function: exact_match, label: 1", "label chooses an output of a reward model"),
        ("model: judge, label: -1", "rewards.0.label: .*received -1"),
        ("function: exact_match, timeout: 0", "rewards.0.timeout: .*received 0"),
        ("function: exact_match, timeout: .inf", "rewards.0.timeout: .*received inf"),
        ("function: exact_match, retries: -1", "rewards.0.retries: .*received -1"),
        ("function: exact_match, retries: 1.5", "rewards.0.retries: .*received 1.5"),
        ("function: exact_match, on_error: skip", "rewards.0.on_error: .*'raise' or 'none'.*received 'skip'"),
        ("function: exact_match, weight: .nan", "rewards.0.weight: .*received nan"),
        ("function: exact_match, retry: 1", "did you mean 'retries'"),
    ],
)
def test_bad_entries_are_explained(entry, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(TINY, [f"rl.rewards=[{{{entry}}}]"])


def test_rl_weighs_a_model_and_a_function(tmp_path):
    folder = tmp_path / "judge"
    classifier(folder, "pair")
    rewards = f"[{{model: '{folder}', weight: 0.5, timeout: 60}}, {{function: length_cost, weight: 2.0}}]"
    short = ["tracking.wandb=false", "curriculum=null", "rl.noise=null", f"output_dir={tmp_path}"]
    run(load_recipe(TINY, [*short, f"rl.rewards={rewards}"]))
    logged = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in logged if "rewards/judge/mean" in row]
    assert rows and all(row["rewards/length_cost/mean"] <= -1 for row in rows)
    for row in rows:
        expected = 0.5 * row["rewards/judge/mean"] + 2 * row["rewards/length_cost/mean"]
        assert row["reward"] == pytest.approx(expected, abs=1e-4)


def test_a_hung_reward_ends_training_and_more_patience_resumes_it(capsys, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import os, time\n"
        "def slow(prompts, completions, **_):\n"
        f"    time.sleep(0 if os.path.exists('{tmp_path}/awake') else 60)\n"
        "    return [0.0] * len(completions)\n"
    )
    short = ["tracking.wandb=false", "curriculum=null", "rl.noise=null", f"output_dir={tmp_path}"]
    reward = f"function: '{mine}:slow'"
    result = neuralese(capsys, "train", TINY, *short, f"rl.rewards=[{{{reward}, timeout: 0.2}}]")
    assert_one_paragraph(result, "was given up after its timeout of 0.2 s, without rewards for 8 completions")
    (tmp_path / "awake").touch()
    more = f"rl.rewards=[{{{reward}, timeout: 30, retries: 1, on_error: none}}]"
    assert neuralese(capsys, "train", TINY, *short, more, "--resume")[0] == 0
    other = f"rl.rewards=[{{{reward}, weight: 2.0}}]"
    assert_one_paragraph(neuralese(capsys, "train", TINY, *short, other, "--resume"), "it differs in rl")


def test_check_reward_of_a_model(capsys, tmp_path):
    classifier(tmp_path, "text", num_labels=2)
    arguments = ["check-reward", tmp_path, "--model", "--question", "a b", "--completion", "### 1"]
    code, out, _ = neuralese(capsys, *arguments, "--label", 1)
    expected = RewardModel(str(tmp_path), 1)(["a b"], ["### 1"])[0]
    assert code == 0 and f"{expected:g}  '### 1'" in out
    assert_one_paragraph(neuralese(capsys, *arguments), "has 2 labels")
    assert_one_paragraph(neuralese(capsys, "check-reward", "exact_match", "--label", 1), "Add --model")


def test_check_reward_takes_columns_and_a_timeout(capsys, tmp_path):
    columns = ["--column", "edges=[[1, 2], [2, 3]]", "--column", "start=1", "--column", "goal=3"]
    code, out, _ = neuralese(capsys, "check-reward", "valid_path", *columns, "--completion", "### 1 2 3")
    assert code == 0 and "1  '### 1 2 3'" in out
    code, out, _ = neuralese(capsys, "check-reward", "exact_match", "--column", "answer=a b", "--completion", "a b")
    assert code == 0 and "1  'a b'" in out
    assert_one_paragraph(neuralese(capsys, "check-reward", "exact_match", "--column", "x"), "name=value")
    mine = tmp_path / "mine.py"
    mine.write_text("import time\ndef slow(prompts, completions, **columns):\n    time.sleep(60)\n")
    result = neuralese(capsys, "check-reward", f"{mine}:slow", "--timeout", 0.1)
    assert_one_paragraph(result, "mine.py:slow' was given up after its timeout of 0.1 s, without rewards for 4")
    assert_one_paragraph(neuralese(capsys, "check-reward", "exact_match", "--timeout", 0), "Give a number above 0")
