"""A W&B sweep: what its agent starts trains a recipe, and the run of the last stage is the trial it waits for."""

import os
import shlex
import sys

import pytest
import yaml
from conftest import ROOT
from runs import TINY, tiny
from waiting import LONG
from wandb.wandb_agent import Agent
from wandb_reader import read_run

from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.tracking.wandb_sweep import VARIABLES, trial_stage, within_sweep

SWEEP = yaml.safe_load((ROOT / "recipes" / "sweeps" / "quickstart.yaml").read_text())


def start_trial(command, values, folder):
    """Has W&B's agent start a trial in a folder, as on an order of the server; returns what it exits with."""
    agent = object.__new__(Agent)  # without a server to ask
    agent._in_jupyter, agent._function, agent._forward_signals, agent._run_processes = False, None, False, {}
    agent._sweep_command = list(command)
    agent._command_run(
        {"run_id": "trial7", "program": "neuralese", "args": {key: {"value": value} for key, value in values.items()}}
    )
    return agent._run_processes["trial7"]._popen.wait(LONG)


@pytest.fixture
def in_sweep(monkeypatch, tmp_path):
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # restored at the end
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep3")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")


def test_the_trial_is_the_run_of_the_last_stage(in_sweep, tmp_path):
    command = [word.replace("recipes/quickstart.yaml", shlex.quote(str(TINY))) for word in SWEEP["command"]]
    command = [word.replace("resume_from=outputs/quickstart@curriculum", f"output_dir={tmp_path}") for word in command]
    assert command != SWEEP["command"]
    values = {"rl.noise": "gaussian:0.7", "rl.trainer.learning_rate": 1e-05, "evaluate.num_samples": 1}
    assert start_trial(command, values | {"evaluate.k": "[1]", "controls": "{}"}, tmp_path) == 0
    recipe = load_recipe(tmp_path / "sweep-trial7" / "recipe.yaml")
    assert recipe.rl.noise == "gaussian:0.7" and float(recipe.rl.trainer["learning_rate"]) == 1e-5
    found = [read_run(path) for path in tmp_path.glob("wandb/offline-run-*/*.wandb")]
    runs = {run["job_type"]: run for run in found}
    assert set(runs) == {"sft", "curriculum", "rl", "evaluate"} and len(found) == 4
    assert runs["rl"]["id"] == "trial7" and "rl.noise" in runs["rl"]["config"]
    others = {stage: run["id"] for stage, run in runs.items() if stage != "rl"}
    assert all(name.startswith(f"sweep-trial7-{stage}-") for stage, name in others.items())


@pytest.mark.parametrize(
    ("overrides", "stage"), [([], "rl"), (["rl=null"], "curriculum"), (["rl=null", "curriculum=null"], "sft")]
)
def test_a_recipe_ends_with_its_trial(tmp_path, overrides, stage):
    assert trial_stage(tiny(tmp_path, *overrides)) == stage


def test_without_a_sweep_nothing_is_hidden(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    with within_sweep(tiny(tmp_path), "sft"):
        assert os.environ["WANDB_RUN_ID"] == "mine"


def test_parameters_of_the_example_are_keys_of_its_recipe():
    values = [
        f"{key}={(of.get('values') or [of.get('value', of.get('min'))])[0]}" for key, of in SWEEP["parameters"].items()
    ]
    recipe = load_recipe(ROOT / "recipes" / "quickstart.yaml", values)
    assert SWEEP["metric"] == {"name": "held_out/accuracy", "goal": "maximize"} and recipe.rl.eval_every == 20
