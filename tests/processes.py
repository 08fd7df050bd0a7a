"""Launches of several processes on this computer, and the tiny recipe under them."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT
from waiting import LONG

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
needs_compiler = pytest.mark.skipif(
    subprocess.run(["sh", "-c", "command -v g++"], capture_output=True).returncode != 0,
    reason="DeepSpeed compiles its CPU communication at the first run and needs g++",
)


def launch(config, *arguments, **environment):
    folder = "tests" if config == "sharded" else "recipes"
    done = subprocess.run(
        [*LAUNCH, f"{folder}/accelerate/{config}.yaml", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **environment},
        capture_output=True,
        text=True,
        timeout=LONG,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done


# Modules of our own, noise in training, and a reference model in RL, whose modules must be the policy's. Rollouts are
# drawn two at a time, and the main process alone reads thoughts for the tables of W&B, which is offline.
OPTIONS = [
    "latent.thought_source=projection", "curriculum.supervision=decoder", "curriculum.supervision_options={layers: 1}",
    "curriculum.noise=gaussian:0.3", "rl.trainer.beta=0.01", "rl.noise=svp:0.3", "rl.eval_every=4",
    "rl.eval_problems=1", "rl.rollout_batch_tokens=30", "tracking.tables_every=2",
]  # fmt: skip


def tiny_arguments(folder, *overrides):
    fixed = ["curriculum.promote_at=null", "evaluate.scorer=tests/always.py:right", *OPTIONS]
    return ["tests/tiny.yaml", f"output_dir={folder}", *fixed, *overrides]


def train_tiny(config, folder, *overrides, launched=launch):
    """The run folder, and the logged rows of the supervised stages. `launched` starts the processes."""
    launched(config, "scripts/train.py", *tiny_arguments(folder, *overrides), WANDB_MODE="offline")
    rows = [json.loads(line) for line in (folder / "tiny" / "metrics.jsonl").read_text().splitlines()]
    # Every answer is right, however many processes share them out.
    measured = {name: row[name] for row in rows for name in ("accuracy", "held_out/accuracy") if name in row}
    assert set(measured.values()) == {1.0} and len(measured) == (1 if "rl=null" in overrides else 2)
    return folder / "tiny", [row for row in rows if "loss" in row and row["stage"] != "rl"]


def processed(row):
    """Tokens and latents of a step, from what was logged a second."""
    seconds = row["time/step"] - row.get("time/eval", 0.0)
    return {name: row.get(f"throughput/{name}_per_second", 0.0) * seconds for name in ("tokens", "latents")}


def batches(per_device, accumulation):
    return [
        f"{stage}.trainer.{key}={value}"
        for stage in ("sft", "curriculum")
        for key, value in (
            ("per_device_train_batch_size", per_device), ("gradient_accumulation_steps", accumulation)
        )
    ]  # fmt: skip
