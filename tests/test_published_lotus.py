"""Loss, gradients and greedy answers of looped latents equal those of the published LOTUS implementation.

Runs where LOTUS_REPO names a clone of github.com/yingfan-bot/lotus; none of its code is copied here.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from batches import assert_same_gradients, gradients
from test_architectures import ARCHITECTURES
from test_published_coconut import aligned
from transformers import DynamicCache

from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate
from neuralese.pipeline.problems.collate import Collator
from neuralese.pipeline.problems.encode import Encoded
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import Level

REPO = os.environ.get("LOTUS_REPO")
pytestmark = pytest.mark.skipif(not REPO, reason="LOTUS_REPO names no clone of the published code")

C, LOOPS, PAD = 3, 2, 0
LEVEL = Level(2, 2, 2 * C)
# Questions of several lengths; steps of one to three tokens; a text step that is left; fewer steps than blocks.
PROBLEMS = [
    Encoded([6, 7, 8], [[9, 10, 11], [12, 6]], [5, 10, 1]),
    Encoded([8, 6, 7, 9, 10, 7], [[6], [8, 9, 10], [7, 7]], [5, 6, 7, 1]),
    Encoded([9, 6], [[10, 11]], [5, 12, 1]),
]


class ListCache:
    """Keys and values of each layer, never changed, as the caches of the releases that the published code is for."""

    def __init__(self, pairs):
        self.pairs = pairs


class Trunk(torch.nn.Module):
    """A model's trunk that takes and returns such caches."""

    def __init__(self, trunk):
        super().__init__()
        self.trunk, self.layers = trunk, []

    def forward(self, inputs_embeds, past_key_values=None, **inputs):
        cache = DynamicCache(config=self.trunk.config)
        # It writes latents into a tensor of which Llama in float32 has saved a part for the backward.
        inputs["inputs_embeds"] = inputs_embeds.clone()
        for layer, (keys, values) in enumerate(getattr(past_key_values, "pairs", ())):
            cache.update(keys, values, layer)
        output = self.trunk(past_key_values=cache, **inputs)
        output.past_key_values = ListCache([(layer.keys, layer.values) for layer in cache.layers])
        return output


class Published(torch.nn.Module):
    """A causal language model as the published code calls it."""

    def __init__(self, reasoner):
        super().__init__()
        self.reasoner, self.model = reasoner.model, Trunk(reasoner.model.base_model)
        self.lm_head = reasoner.model.get_output_embeddings()

    def get_input_embeddings(self):
        return self.reasoner.get_input_embeddings()

    def forward(self, **inputs):
        output = self.model(**inputs)
        output.logits = self.lm_head(output.last_hidden_state)
        return output


@pytest.fixture(params=["gpt2", "llama"])
def reasoner(request, make):
    return make(
        *ARCHITECTURES[request.param](), num_latents=2 * C, latents_per_step=C, thought_source="raw", loops=LOOPS,
        delimiters=True, supervision="step_tokens", supervision_weight=0.05, supervised=True,
    )  # fmt: skip


def published(reasoner, injection):
    spec = importlib.util.spec_from_file_location("lotus", Path(REPO) / "scripts" / "lotus.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    start, latent, end = reasoner.config.token_ids
    return module.Lotus(
        Published(reasoner), latent, start, end, reasoner.eos_token_ids[0], pad_token_id=PAD, c_thought=C,
        intermediate_loss_weight=0.05, intermediate_loss_after_loop=True, latent_injection_mode=injection,
    )  # fmt: skip


def steps_of(problems):
    """(B, K, Y) token ids of the replaced steps, as the published collator pads them."""
    padded = [[[*step, *[PAD] * (C - len(step))] for step in item.steps[:2]] for item in problems]
    return torch.tensor([[*steps, *[[PAD] * C] * (2 - len(steps))] for steps in padded])


@pytest.mark.parametrize("injection", ["add", "replace"])
def test_loss_and_gradients(reasoner, injection):
    reasoner.model.set_latent_config(injection=injection)
    style = Format(reasoner.config, eos_token_id=1)
    examples = [style.example(item, LEVEL) for item in PROBLEMS]
    theirs = aligned(
        [example["input_ids"] for example in examples],
        [example["labels"] for example in examples],
        reasoner.config.token_ids[1],
    )
    expected = published(reasoner, injection)(**theirs, n_looped_iters=LOOPS, replaced_cot_steps=steps_of(PROBLEMS))
    grads = gradients(reasoner.model, expected.loss)
    output = reasoner(**Collator(PAD)(examples))
    assert output.latent_loss > 0 and torch.allclose(output.latent_loss, expected.intermediate_loss, atol=1e-5)
    assert torch.allclose(output.loss, expected.loss, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), grads, 2e-5)


@torch.no_grad()
def test_greedy_answers(reasoner, monkeypatch):
    """Up to the first latent token that the published code emits: ours never samples one."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    start, latent, end = reasoner.config.token_ids
    prompts = [[*item.question, start, *[latent] * 2 * C, end] for item in PROBLEMS]
    rows, seeds = torch.arange(len(prompts)), torch.zeros(len(prompts), dtype=torch.long)
    sampling = SamplingParams(max_new_tokens=12)
    drawn = generate(reasoner.model, prompts, rows, seeds, sampling, None, reasoner.eos_token_ids)
    model, compared = published(reasoner, "add").eval(), 0
    for prompt, ours in zip(prompts, drawn.token_ids, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.generate(ids, torch.ones_like(ids), max_new_tokens=12, n_looped_iters=LOOPS)
        theirs = theirs[0, len(prompt) :].tolist()
        ours = [token for token in ours if token not in reasoner.eos_token_ids]
        cut = next((i for i, token in enumerate(theirs) if token in reasoner.config.token_ids), len(theirs))
        assert ours[:cut] == theirs[:cut]
        compared += cut
    assert compared >= 12
    noisy = generate(reasoner.model, prompts, rows, seeds, sampling, parse_noise("gaussian:3"), reasoner.eos_token_ids)
    assert noisy.token_ids != drawn.token_ids  # the answers depend on the latents, or this compares nothing
