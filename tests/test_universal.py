"""DeepSpeed's parts for another number of processes: what it would restore wrongly is mended or refused.

That the losses go on is in test_other_processes.py.
"""

from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.pipeline.train import universal
from neuralese.pipeline.train.resume import CheckpointError
from neuralese.pipeline.train.universal import OwnStepsCallback, load_universal


@pytest.fixture
def merged(monkeypatch):
    """The checkpoints that are merged; nothing is."""
    found = []
    monkeypatch.setattr(universal, "_merge", found.append)
    return found


def trainer(stage, frozen=False, lora=False, **args):
    """What `load_universal` reads of a Trainer, and the callbacks and the config that it is given."""
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=8, n_positions=8))
    model.lm_head.weight.requires_grad_(not frozen)
    if lora:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    callbacks, plugin = [], SimpleNamespace(zero_stage=stage, deepspeed_config={})
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(
        model=model, args=SimpleNamespace(**{"weight_decay": 0.0, **args}), accelerator=SimpleNamespace(state=state),
        add_callback=callbacks.append, callbacks=callbacks, config=plugin.deepspeed_config,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "why"),
    [({"weight_decay": 0.1}, "weight_decay=0.1, which"), ({"frozen": True}, "frozen weights, which")],
)
def test_what_zero3_would_restore_wrongly_is_refused(merged, tmp_path, options, why):
    with pytest.raises(CheckpointError, match=f"under ZeRO-3 with {why}.*Launch as many processes as before"):
        load_universal(trainer(3, **options), tmp_path)
    assert not merged


@pytest.mark.parametrize(
    ("stage", "options"), [(2, {"weight_decay": 0.1, "frozen": True}), (3, {}), (3, {"lora": True})]
)
def test_all_else_is_merged_and_loaded_in_that_form(merged, tmp_path, stage, options):
    one = trainer(stage, **options)
    load_universal(one, tmp_path)
    assert merged == [tmp_path] and one.config == {"checkpoint": {"load_universal": True}}
    assert [type(callback) for callback in one.callbacks] == [OwnStepsCallback]


def test_parameters_get_step_counters_of_their_own():
    """As DeepSpeed restores them: one tensor for two. Adam then counts each step twice."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer, shared = torch.optim.AdamW(weights, foreach=False), torch.tensor(5.0)
    for weight in weights:
        weight.grad = torch.ones(2)
        optimizer.state[weight] = {"step": shared, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    wrapped = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    OwnStepsCallback().on_train_begin(None, None, None, optimizer=wrapped)
    optimizer.step()
    assert [optimizer.state[weight]["step"].item() for weight in weights] == [6.0, 6.0]
