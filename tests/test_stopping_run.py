"""A run whose thoughts end by themselves: curriculum, RL that prices latents, and its evaluation."""

import json

import pytest
import torch
from runs import tiny, weights

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.run.train import run

STOPPING = [
    "tracking.wandb=false",
    "latent.stop_head=true",
    "latent.latents_per_step=2",
    "curriculum.pad_latents=false",
]
REWARDS = "rl.rewards=[{function: exact_match}, {function: latent_cost, weight: 0.2}]"


@pytest.mark.parametrize(
    "options",
    [
        ["rl.eval_every=2", "rl.eval_problems=12"],
        ["model.lora={r: 2, target_modules: [c_attn]}", "rl.answers_per_thought=2", "rl.noise=null"],
        ["curriculum.supervision=step_tokens", "rl.step_tokens_weight=0.1", "rl.eval_every=4", "rl.eval_problems=12"],
        ["rl.estimator=mix:0.5", "rl.equal_groups=resample", "rl.trainer.num_iterations=2", "rl.trainer.save_steps=4"],
        ["rl.algorithm=ppo", "rl.answers_per_thought=2", "rl.trainer.num_iterations=2", "rl.trainer.save_steps=4"],
    ],
    ids=["held out", "lora", "labels", "mix", "ppo"],
)
def test_a_recipe_trains_when_to_stop(tmp_path, options):
    of = tiny(tmp_path, *STOPPING, REWARDS, "rl.trainer.learning_rate=0.01", *options)
    rows = run(of)
    assert {row.stage for row in rows} >= {"sft", "curriculum", "rl"}
    log = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    log = [row for row in log if "rollout/num_latents" in row]
    assert log and all(1 <= row["rollout/num_latents"] <= 4 for row in log)
    assert all(row["rewards/latent_cost/mean"] == pytest.approx(-row["rollout/num_latents"]) for row in log)
    assert any(row["rewards/latent_cost/std"] > 0 for row in log)
    assert all(row["rollout/replay_gap"] < 1e-3 for row in log if "rollout/replay_gap" in row)
    before, after = (weights(of.folder / stage / "final") for stage in ("curriculum", "rl"))
    assert not torch.equal(before["stop_head.weight"], after["stop_head.weight"])
    assert not torch.equal(before["stop_head.bias"], after["stop_head.bias"])
    reasoner = load_reasoner(of.folder / "rl" / "final")
    assert reasoner.config.stop_head and reasoner.config.num_latents == 4
    taken = reasoner.generate(["3 + 4 - 2 ="], n=2, noise=None, max_new_tokens=4)[0].num_latents
    assert taken[0] == taken[1] <= 4
