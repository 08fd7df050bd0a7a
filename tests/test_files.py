"""Every file that is saved can be read by those whom the umask lets read, weights included."""

import os
import stat
from pathlib import Path

import pytest
import torch
from runs import tiny

from neuralese.pipeline.run.train import run
from neuralese.pipeline.train.callbacks import UmaskCallback
from neuralese.pipeline.train.curriculum.optimizer_state import save_optimizer


@pytest.fixture(params=[0o022, 0o027, 0o002])
def mask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    """The mode of each file, by name."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode) for path in files}


def test_what_is_saved_follows_the_umask(mask, reasoner, judge, tmp_path):
    reasoner.save_pretrained(tmp_path / "model")
    judge.save_pretrained(tmp_path / "judge")
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    save_optimizer(optimizer, tmp_path / "optimizer.safetensors")
    found = modes(tmp_path)
    assert {"model/model.safetensors", "judge/model.safetensors", "optimizer.safetensors"} <= found.keys()
    assert set(found.values()) == {0o666 & ~mask}


@pytest.mark.parametrize("lora", ["null", "{r: 2, target_modules: [c_attn]}"])
def test_all_that_a_run_leaves_follows_the_umask(tmp_path, monkeypatch, lora):
    """Its checkpoints on the way too, whose weights are those of an adapter under LoRA."""
    on_the_way, original = {}, UmaskCallback.on_save

    def looked(self, args, *others, **kwargs):
        original(self, args, *others, **kwargs)
        on_the_way.update(modes(args.output_dir))

    monkeypatch.setattr(UmaskCallback, "on_save", looked)
    before = os.umask(0o022)
    run(
        tiny(
            tmp_path, "tracking.wandb=false", f"model.lora={lora}", "rl=null", "curriculum=null", "evaluate.problems=2"
        )
    )
    os.umask(before)
    assert any(name.endswith(".safetensors") for name in on_the_way)
    assert set(on_the_way.values()) == set(modes(tmp_path).values()) == {0o644}, on_the_way | modes(tmp_path)
