"""Rollouts and measurements under ZeRO-3 without whole weights are those with whole weights, bit for bit."""

import json

import pytest
from processes import needs_compiler, train_tiny
from safetensors.torch import load_file

pytestmark = [pytest.mark.launch, pytest.mark.slow, needs_compiler]
# Rewards that differ. Of three held-out problems one process has two.
ONE_MORE = [
    "rl.rewards=[{function: 'tests/lengths.py:length'}]",
    "rl.trainer.learning_rate=1.0e-3",
    "rl.eval_problems=3",
]
LABELLED = [
    "latent.loops=2", "latent.thought_source=raw", "curriculum.supervision=step_tokens",
    "curriculum.supervision_options={}", "rl.noise=gaussian:0.3", "rl.step_tokens_weight=0.3",
]  # fmt: skip
STOPPING = [
    "latent.stop_head=true", "latent.latents_per_step=2", "latent.thought_source=soft_vocabulary",
    "curriculum.pad_latents=false", "rl.noise=null", "rl.trainer.beta=0.0", "rl.rollout_batch_tokens=40",
]  # fmt: skip


def logged(folder):
    """What was logged, without seconds and memory."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = ("time", "throughput/", "memory/", "train_", "step_time")
    return [{key: value for key, value in row.items() if not key.startswith(told)} for row in rows]


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ("sharded", []),  # noise on values, whose matrices are gathered apart, and a process without held-out problems
        ("zero3", [*ONE_MORE, *LABELLED]),  # small weights stay whole between steps
        ("zero3", [*ONE_MORE, *STOPPING]),  # thoughts of different lengths, and embeddings read by the thought source
        ("sharded", [*ONE_MORE, *STOPPING, "rl.algorithm=ppo"]),  # a critic that is asked at each token
    ],
    ids=["values", "loops", "stops", "critic"],
)
def test_samples_and_weights_are_those_with_whole_weights(tmp_path, config, options):
    folders = [
        train_tiny(config, tmp_path / value, *options, f"model.ds3_gather_for_generation={value}")[0]
        for value in ("true", "false")
    ]
    whole, synced = map(logged, folders)
    assert whole == synced and any("held_out/pass@4" in row for row in whole)
    assert any(row.get("reward", 0) > 0 for row in whole)
    weights = [load_file(folder / "rl/final/model.safetensors") for folder in folders]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
