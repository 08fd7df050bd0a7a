"""docs/tutorial.md: its problems, its recipe and its commands are those that are tested here.

With the environment variable SMOLLM2, a folder made by scripts/smollm2.py, the recipe is run on that model until its
text is learned, killed and resumed, and held to floors (about 10 minutes).
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import yaml
from conftest import ROOT
from test_real_recipes import chat_model
from typer.testing import CliRunner

from neuralese.data.equations import equation_holds
from neuralese.data.problem import read_problems
from neuralese.data.tasks import change_one
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import app
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run

PAGE = (ROOT / "docs" / "tutorial.md").read_text()
FEW = [
    "tracking.wandb=false", "model.dtype=float32", "sft.trainer.max_steps=2", "curriculum.trainer.max_steps=2",
    "curriculum.eval_problems=4", "rl.trainer.max_steps=2", "rl.eval_problems=4", "evaluate.problems=8",
    "evaluate.bootstrap=20",
]  # fmt: skip


def block(language):
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    subprocess.run([sys.executable, "-c", block("python")], cwd=folder, check=True)
    (folder / "shop.yaml").write_text(block("yaml"))
    return folder


def test_the_problems_are_what_the_page_shows(folder):
    train, evaluation = read_problems(folder / "train.jsonl"), read_problems(folder / "eval.jsonl")
    assert (len(train), len(evaluation)) == (6000, 500)
    assert (folder / "train.jsonl").read_text().splitlines()[0] in PAGE
    for problem in evaluation:
        assert all(map(equation_holds, problem.steps)) and len(problem.steps) == 3
        assert problem.steps[-1].endswith(f"={problem.answer}") and int(problem.answer) > 0
    assert sum(change_one(None, {}, problem, 0) is not None for problem in evaluation) > 450


def test_the_recipe_runs_through_all_stages_and_is_audited(folder, monkeypatch):
    monkeypatch.chdir(folder)
    chat_model("smollm2")(folder / "model", [])
    recipe = load_recipe("shop.yaml", [*FEW, "model.name_or_path=model"])
    assert {row.stage for row in run(recipe)} == {"sft", "curriculum", "rl"}
    section = load_reasoner("outputs/shop/rl/final").config
    assert (section.num_latents, section.latents_per_step, section.level) == (6, 2, 3)
    result = CliRunner().invoke(app, ["audit", "outputs/shop", "--problems", "8"])
    gates = json.loads((folder / "outputs" / "shop" / "audit.json").read_text())["gates"]
    assert result.exit_code == 0 and [gate["name"] for gate in gates][2] == "counterfactual followed"


def test_every_command_has_the_options_that_it_is_given():
    lines = [line for text in re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) for line in text.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("neuralese ")]
    assert {command[0] for command in commands} >= {"check", "train", "audit", "sample"}
    for name, *arguments in commands:
        known = CliRunner().invoke(app, [name, "--help"], terminal_width=200).output
        assert all(option in known for option in arguments if option.startswith("-")), (name, arguments)


@pytest.mark.skipif("SMOLLM2" not in os.environ, reason="needs SMOLLM2, a folder made by scripts/smollm2.py")
def test_a_pretrained_model_learns_the_problems_and_goes_on_after_a_kill(folder):
    recipe = yaml.safe_load(block("yaml"))
    recipe |= {"rl": None, "curriculum": None, "name": "floor", "tracking": {"wandb": False}}
    recipe["model"]["name_or_path"] = os.environ["SMOLLM2"]
    recipe["sft"]["trainer"]["save_steps"] = 20
    recipe["evaluate"]["sampling"] = []
    (folder / "floor.yaml").write_text(yaml.safe_dump(recipe))
    train = [sys.executable, "-m", "neuralese.pipeline.cli", "train"]

    def start(*more):
        return subprocess.Popen([*train, "floor.yaml", *more], cwd=folder, start_new_session=True)

    run_folder, killed = folder / "outputs" / "floor", start()
    while not (run_folder / "sft" / "checkpoint-20" / "trainer_state.json").is_file():
        assert killed.poll() is None
        time.sleep(1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert start("--resume").wait() == 0
    losses = [row["loss"] for row in map(json.loads, (run_folder / "metrics.jsonl").read_text().splitlines()) if "loss" in row]
    assert losses[0] > 1.5 and losses[-1] < 0.1
    (greedy,) = json.loads((run_folder / "results.json").read_text())["rows"]
    assert greedy["accuracy"]["value"] > 0.6
    whole = start("name=whole")
    assert whole.wait() == 0
    files = [folder / "outputs" / name / "sft" / "final" / "model.safetensors" for name in ("floor", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()
