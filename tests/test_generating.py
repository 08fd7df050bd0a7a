"""Which way to draw under ZeRO-3 reaches every draw of a run: rollouts, and held-out measurements of both stages."""

import contextlib

import pytest
from runs import tiny

from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import generation


@pytest.mark.parametrize("gathers", [True, False])
def test_the_key_reaches_all_draws(tmp_path, monkeypatch, gathers):
    told, synced, unwrap = [], [], generation.unwrap_model_for_generation

    def unwrapping(model, accelerator, gather_deepspeed3_params):
        told.append(gather_deepspeed3_params)
        return unwrap(model, accelerator, gather_deepspeed3_params=gather_deepspeed3_params)

    @contextlib.contextmanager
    def syncing(model, wrapped):
        synced.append(model)
        yield

    monkeypatch.setattr(generation, "unwrap_model_for_generation", unwrapping)
    monkeypatch.setattr(generation, "synced_passes", syncing)
    options = [
        "sft=null",
        "rl.eval_every=4",
        "rl.eval_problems=12",
        "curriculum.promote_at=null",
        "tracking.wandb=false",
    ]
    run(tiny(tmp_path, *options, f"model.ds3_gather_for_generation={str(gathers).lower()}"))
    # Two levels with a measurement each; four draws of RL, and a measurement before and after them.
    assert told == [gathers] * 8 and len(synced) == (0 if gathers else 8)
