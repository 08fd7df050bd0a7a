"""Operations of a step against those that torch counts, and the peaks of devices."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import MixtralConfig, MixtralForCausalLM

from neuralese.pipeline.train.flops import PEAKS, Cost, latent_passes, peak_flops
from neuralese.pipeline.train.timed_trainer import token_counts

PRODUCTS = ("aten.mm", "aten.addmm")  # those with weights: the products of attention are bmm, or attention's own


def counted(work):
    """Operations of the products with weights."""
    with FlopCounterMode(display=False) as counter:
        work()
    return sum(value for name, value in counter.get_flop_counts()["Global"].items() if str(name) in PRODUCTS)


def rows_without_padding(reasoner, latents):
    """Three rows of question, latents and answer, with labels on the answer."""
    ids = torch.randint(6, 13, (3, 12))
    ids[:, 4 : 4 + latents] = reasoner.config.token_ids[1]
    labels = ids.masked_fill(torch.arange(12) < 9, -100)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


MODES = {
    "text": {"num_latents": 0},
    "sequential": {"num_latents": 3},
    "looped": {"num_latents": 3, "loops": 4},
    "jacobi": {"num_latents": 3, "jacobi_sweeps": 2},
}


@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("mode", MODES)
def test_operations_are_those_that_torch_counts(make, mode, frozen):
    reasoner = make(**MODES[mode])
    model = reasoner.model.train()
    for name, weight in model.named_parameters():
        weight.requires_grad_(not (frozen and ".mlp." in name))
    inputs = rows_without_padding(reasoner, MODES[mode]["num_latents"])
    cost = Cost.of(model)
    tokens, latents = token_counts(inputs["input_ids"], inputs["attention_mask"], reasoner.config.token_ids[1])
    given = (tokens, latents, torch.tensor(9))
    with torch.no_grad():
        assert cost.flops(*given, backward=False) == counted(lambda: model(**inputs))
    assert cost.flops(*given, backward=True) == counted(lambda: model(**inputs).loss.backward())


def test_adapters_count_as_trained_and_the_base_as_frozen(make):
    reasoner = make(num_latents=3)
    model = get_peft_model(reasoner.model, LoraConfig(r=2, target_modules=["c_attn", "c_fc"]))
    adapters = 2 * (2 * (32 + 96) + 2 * (32 + 128))  # in two layers
    head = len(reasoner.tokenizer) * 32
    assert Cost.of(model.get_base_model()) == Cost(2 * 12 * 32**2 + adapters, adapters, head, 0)


def test_weights_of_a_step_by_hand():
    """Two layers of width 32 have 12 d² weights each, the head 50 d: 6 operations a weight and token."""
    cost = Cost(trunk=2 * 12 * 32**2, trained_trunk=2 * 12 * 32**2, head=50 * 32, trained_head=50 * 32)
    assert cost.flops(10, 0, 4, backward=True) == 6 * (10 * 24 * 32**2 + 4 * 50 * 32)
    assert cost.flops(10, 5, 4, backward=False) == 2 * (15 * 24 * 32**2 + 4 * 50 * 32)
    adapters = Cost(trunk=1000, trained_trunk=10, head=100, trained_head=0)
    assert adapters.flops(1, 0, 1, backward=True) == 4 * 1000 + 2 * 10 + 4 * 100


def test_weights_of_a_model(make):
    reasoner = make(num_latents=3)
    vocabulary = len(reasoner.tokenizer)
    expected = Cost(2 * 12 * 32**2, 2 * 12 * 32**2, vocabulary * 32, vocabulary * 32)
    assert Cost.of(reasoner.model) == expected


def test_a_mixture_of_experts_has_no_cost(make):
    config = MixtralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        num_local_experts=2, max_position_embeddings=64,
    )  # fmt: skip
    assert Cost.of(make(MixtralForCausalLM, config, num_latents=2).model) is None


def test_latents_that_are_made_at_once_take_a_pass_more_than_rounds(make):
    assert [latent_passes(make(**options).config) for options in MODES.values()] == [1, 1, 5, 3]
    assert latent_passes(make(num_latents=2, jacobi_sweeps=7).config) == 3  # more sweeps than latents change nothing


@pytest.mark.parametrize(
    ("name", "dtype", "tf32", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", False, 989.5e12),
        ("NVIDIA H100 80GB HBM3", "float32", False, 67e12),
        ("NVIDIA H100 80GB HBM3", "float32", True, 494.5e12),
        ("NVIDIA A100-SXM4-80GB", "bfloat16", True, 312e12),
        ("NVIDIA A100 80GB PCIe", "float32", True, 156e12),
        ("NVIDIA H100 80GB HBM3", "float64", False, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16", False, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16", False, None),
        ("NVIDIA H200 NVL", "bfloat16", False, 835.5e12),
    ],
)
def test_peaks(name, dtype, tf32, peak):
    assert peak_flops(name, dtype, tf32) == peak


def test_peaks_rise_with_fewer_bits():
    assert all(0 < full <= tf32 <= half for full, tf32, half in PEAKS.values())
