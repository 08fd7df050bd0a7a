"""What RL begins with: checkpoints of every mode, checkpoints that are not what the recipe says, data of one's own."""

import ast
import json
import shutil

import pytest
import torch
from runs import tiny, weights

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.run.train import run


def rl_from(checkpoint, folder, *overrides):
    start = ["tracking.wandb=false", "sft=null", "curriculum=null", "model.config=null"]
    return tiny(folder, *start, f"model.name_or_path={checkpoint}", *overrides)


def logged(folder):
    rows = [json.loads(line) for line in (folder / "tiny" / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "reward" in row]


@pytest.mark.parametrize(
    ("stage", "latents", "noise"),
    [("sft", 0, "null"), ("curriculum/level-1", 1, "gaussian:0.3"), ("curriculum", 2, "svp:0.3")],
)
def test_text_hybrid_and_latent_checkpoints_train_by_the_same_code(finished, tmp_path, stage, latents, noise):
    """Text CoT, one latent and then the step that stayed text, and latents alone."""
    checkpoint = finished[0] / stage / "final"
    reward = tmp_path / "length.py"
    reward.write_text("def length(prompts, completions, **columns):\n    return [len(c) / 10 for c in completions]\n")
    settings = [
        f"rl.noise={noise}",
        f"rl.rewards=[{{function: '{reward}:length'}}]",
        "rl.trainer.max_completion_length=8",
    ]
    run(rl_from(checkpoint, tmp_path, *settings))
    rows = logged(tmp_path)
    assert len(rows) == 4 and all(row["rollout/replay_gap"] < 1e-4 for row in rows)
    before, after = weights(checkpoint), weights(tmp_path / "tiny" / "rl" / "final")
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert load_reasoner(tmp_path / "tiny" / "rl" / "final").config.num_latents == latents


@pytest.mark.parametrize("estimator", ["replay", "score_function"])
def test_thoughts_that_do_not_see_all_train_under_every_estimator(finished, tmp_path, estimator):
    checkpoint = shutil.copytree(finished[0] / "curriculum" / "level-2" / "final", tmp_path / "other")
    config = json.loads((checkpoint / "config.json").read_text())
    config["latent"] |= {"window": 1, "sees_question": False}
    (checkpoint / "config.json").write_text(json.dumps(config))
    reward = tmp_path / "length.py"
    reward.write_text("def length(prompts, completions, **columns):\n    return [len(c) / 10 for c in completions]\n")
    run(rl_from(checkpoint, tmp_path, f"rl.estimator={estimator}", f"rl.rewards=[{{function: '{reward}:length'}}]"))
    rows = logged(tmp_path)
    assert len(rows) == 4 and all(row["grad_norm"] > 0 for row in rows)
    assert estimator != "replay" or all(row["rollout/replay_gap"] < 1e-4 for row in rows)
    section = load_reasoner(tmp_path / "tiny" / "rl" / "final").config
    assert (section.window, section.sees_question) == (1, False)


@pytest.mark.parametrize(
    ("section", "overrides", "message"),
    [
        ({"thought_source": "pause"}, [], "rl.noise=gaussian:0.3 has no latents to fall on with thought source pause"),
        ({"loops": 2}, ["rl.estimator=score_function"], "score_function"),
        ({"stop_head": True}, ["rl.trainer.loss_type=grpo"], "loss_type=grpo does not fit latent.stop_head"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_named_before_training(finished, tmp_path, section, overrides, message):
    """The recipe's latent section fits; the one of the checkpoint is another."""
    checkpoint = shutil.copytree(finished[0] / "curriculum" / "level-2" / "final", tmp_path / "other")
    config = json.loads((checkpoint / "config.json").read_text())
    config["latent"] |= section
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        run(rl_from(checkpoint, tmp_path, *overrides))
    assert not list((tmp_path / "tiny" / "rl").glob("*"))


def test_columns_reach_rewards_as_they_stand_in_the_data(tmp_path):
    """Objects with keys of their own, mixed types, integers beyond 64 bits. What a reward changes stays its own."""
    reward = tmp_path / "keep.py"
    reward.write_text(
        "seen = []\n"
        "def keep(prompts, completions, question, extra, **columns):\n"
        "    seen.extend((q, repr(x)) for q, x in zip(question, extra))\n"
        "    for x in extra:\n"
        "        x.append(0) if isinstance(x, list) else x.clear() if isinstance(x, dict) else None\n"
        "    open(__file__ + '.txt', 'w').write(repr(seen))\n"
        "    return [float(len(c)) for c in completions]\n"
    )
    values = [{"a": 1}, {"b": 2}, 2**63, "text", None, [1, "two", {"c": [None]}], 1.5, True]
    rows = [
        {"question": f"{i} + 1 =", "steps": [str(i + 1)], "answer": str(i + 1), "extra": values[i % 8]}
        for i in range(16)
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = [
        f"data.train={{path: '{file}'}}",
        f"data.eval={{path: '{file}'}}",
        "data.keep_overlap=true",
        f"rl.rewards=[{{function: '{reward}:keep'}}]",
    ]
    stages = ["tracking.wandb=false", "sft=null", "curriculum=null", "rl.noise=null", "evaluate.problems=2"]
    run(tiny(tmp_path, *data, *stages, "rl.trainer.max_steps=16"))
    seen = ast.literal_eval((tmp_path / "keep.py.txt").read_text())
    given = {row["question"]: repr(row["extra"]) for row in rows}
    assert len(seen) == 16 * 8 and all(given[question] == value for question, value in seen)
    assert len({value for _, value in seen}) == len(values)
