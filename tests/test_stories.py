"""docs/results/stories.md: its script and its recipe are used as they stand there."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from runs import assert_same_weights

from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import callbacks

PAGE = ROOT / "docs" / "results" / "stories.md"
MODEL = os.environ.get("SMOLLM2")  # a folder that scripts/smollm2.py made
SMALL = "model={config: {model_type: llama, num_hidden_layers: 1, hidden_size: 16, intermediate_size: 16, \
num_attention_heads: 2, max_position_embeddings: 96}}"


def block(kind):
    """The first block of code of a kind."""
    found = re.search(rf"^```{kind}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found.group(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("problems.py").write_text(block("python"))
    subprocess.run([sys.executable, "problems.py"], check=True)
    Path("shop.yaml").write_text(block("yaml"))
    return tmp_path


def test_the_script_writes_problems_whose_steps_are_right(folder):
    rows = [json.loads(line) for line in Path("train.jsonl").read_text().splitlines()]
    assert len(rows) == 6000 and len(Path("eval.jsonl").read_text().splitlines()) == 500
    for row in rows:
        values = []
        for step in row["steps"]:
            left, right = step.split("=")
            assert eval(left) == int(right)
            values.append(left)
        assert (
            values[1].startswith(row["steps"][0].partition("=")[2]) and row["answer"] == row["steps"][1].split("=")[1]
        )


def test_the_recipe_trains_another_model_by_one_key(folder):
    """In a few steps of a model of 16 dimensions, through all stages."""
    short = [f"{stage}.trainer.max_steps=2" for stage in ("sft", "curriculum", "rl")]
    few = ["curriculum.last_level_trainer={max_steps: 2}", "curriculum.eval_problems=8", "evaluate.problems=8"]
    rl = ["rl.trainer.per_device_train_batch_size=8"]
    recipe = load_recipe("shop.yaml", [SMALL, "tracking.report_to=none", *short, *few, *rl])
    assert {row.stage for row in run(recipe)} == {"sft", "curriculum", "rl"}


@pytest.mark.slow
@pytest.mark.skipif(MODEL is None, reason="SMOLLM2 names no folder made by scripts/smollm2.py")
def test_a_pretrained_model_learns_the_steps_as_text_and_resumes_exactly(folder, monkeypatch):
    """About 10 minutes on 2 cores. The floors are half of what one run reached at these steps."""
    more = [f"model.name_or_path={MODEL}", "tracking.report_to=none", "curriculum=null", "rl=null"]
    more += ["sft.trainer.max_steps=60", "sft.trainer.save_steps=20", "evaluate.problems=64", "evaluate.sampling=[]"]
    more += ["evaluate.num_samples=1", "evaluate.k=[1]"]
    whole = load_recipe("shop.yaml", [*more, "name=whole"])
    (accuracy,) = [row.value for row in run(whole) if row.metric == "accuracy"]
    logged = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in logged if "loss" in row]
    assert losses[-1] < 0.1 * losses[0]
    assert accuracy >= 0.5

    def die(self, args, state, control, **kwargs):
        assert state.global_step < 30, "killed"

    broken = load_recipe("shop.yaml", [*more, "name=broken"])
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="killed"):
        patch.setattr(callbacks.ProgressCallback, "on_step_end", die)
        run(broken)
    run(broken, resume=True)
    assert_same_weights(whole.folder / "sft" / "final", broken.folder / "sft" / "final")
