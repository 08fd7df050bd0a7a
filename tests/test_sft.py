"""Stage `sft`: the head scores positions with labels alone, and the loss is TRL's."""

import copy

import pytest
import torch
from trl.trainer.utils import add_fused_lm_head

from neuralese.pipeline.latent.engine.precision import computing
from neuralese.pipeline.latent.supervision.base import IGNORE
from neuralese.pipeline.train.sft import read_labels_alone


def fused(model):
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    return model


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loss_metrics_and_gradients_are_those_of_trl(reasoner, dtype, checkpointing):
    reasoner.model.set_latent_config(compute_dtype=dtype)
    ids = torch.randint(4, reasoner.model.config.vocab_size - 4, (3, 9))
    labels = ids.clone()
    labels[0, :5] = labels[1, :8] = labels[2, :2] = labels[2, 7:] = IGNORE  # questions, and padding at the end
    mask = torch.ones_like(ids)
    mask[2, 7:] = 0
    found = {}
    for name in ("all", "labelled"):
        model = fused(copy.deepcopy(reasoner.model))
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable()
        if name == "labelled":
            read_labels_alone(model)
        with computing(model):
            out = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        out.loss.backward()
        found[name] = out, {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    (plain, expected), (ours, gradients) = found["all"], found["labelled"]
    assert ours.label_mask.numel() == ours.label_mask.sum() == plain.label_mask.sum() == 10
    assert plain.label_mask.numel() == 24
    torch.testing.assert_close(ours.loss, plain.loss)
    for metric in ("log_probs", "entropy", "is_top1"):
        assert torch.allclose(getattr(ours, metric).float().sum(), getattr(plain, metric).float().sum()), metric
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], msg=name)


def test_other_forwards_are_left_alone(reasoner):
    """Sampling asks for logits of every position; they are there after a step, too."""
    ids = torch.randint(4, 12, (2, 6))
    model = fused(copy.deepcopy(reasoner.model))
    expected = model(input_ids=ids).logits
    read_labels_alone(model)
    model(input_ids=ids, labels=ids, fused_lm_head=True)
    assert torch.equal(model(input_ids=ids).logits, expected)
