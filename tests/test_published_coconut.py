"""Loss, gradients and greedy answers equal those of the published Coconut implementation.

Runs where COCONUT_REPO names a clone of github.com/facebookresearch/coconut; none of its code is copied here.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from batches import E, L, S, assert_same_gradients, encode, gradients
from test_architectures import ARCHITECTURES
from transformers import DynamicCache

from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate

REPO = os.environ.get("COCONUT_REPO")
pytestmark = pytest.mark.skipif(not REPO, reason="COCONUT_REPO names no clone of the published code")

# Its collator aligns the first latents of a batch; one block of latents a row, none in one of them.
ROWS = [
    [6, 7, 8, S, L, L, L, E, 9, 10],
    [6, 7, 8, 9, 10, 11, S, L, E, 9, 10, 11, 12],
    [9, S, L, L, L, L, E, 8],
    [6, 7, 8, 9],
]
PROMPTS = [row[: row.index(E) + 1] for row in ROWS[:3]]


class OldCache(torch.nn.Module):
    """Gives a model the caches of older Transformers releases, lists of pairs, which the published code slices."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_input_embeddings(self):
        return self.model.get_input_embeddings()

    def forward(self, past_key_values=None, **inputs):
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(past_key_values or []):
            cache.update(keys, values, layer)
        output = self.model(past_key_values=cache, use_cache=True, **inputs)
        output.past_key_values = [(layer.keys, layer.values) for layer in cache.layers]
        return output


@pytest.fixture(params=["gpt2", "llama"])
def reasoner(request, make):
    return make(*ARCHITECTURES[request.param](), num_latents=3, thought_source="raw")


@pytest.fixture
def published(reasoner):
    spec = importlib.util.spec_from_file_location("coconut", Path(REPO) / "coconut.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    start, latent, end = reasoner.config.token_ids
    eos = reasoner.eos_token_ids[0]
    return module.Coconut(OldCache(reasoner.model), latent, start, end, eos)


def aligned(ids, labels, latent):
    """The batch as the published collator makes it: first latents in one column, then padded on the right."""
    first = [row.index(latent) if latent in row else None for row in ids]
    column = max(place for place in first if place is not None)
    shift = [column - place if place is not None else 0 for place in first]
    width = max(len(row) + left for row, left in zip(ids, shift, strict=True))
    rows = zip(ids, labels, shift, strict=True)
    padded = [
        (
            [0] * left + row + [0] * (width - left - len(row)),
            [0] * left + [1] * len(row) + [0] * (width - left - len(row)),
            [-100] * left + label + [-100] * (width - left - len(row)),
            [0] * left + list(range(len(row))) + [0] * (width - left - len(row)),
        )
        for row, label, left in rows
    ]
    names = ("input_ids", "attention_mask", "labels", "position_ids")
    return {name: torch.tensor(values) for name, values in zip(names, zip(*padded, strict=True), strict=True)}


def test_loss_and_gradients(reasoner, published):
    latent = reasoner.config.token_ids[1]
    ids, labels = encode(reasoner, ROWS)
    labels = [
        [-100 if token == latent else label for token, label in zip(row, given, strict=True)]
        for row, given in zip(ids, labels, strict=True)
    ]
    batch = aligned(ids, labels, latent)
    expected = published(**batch)
    theirs = gradients(reasoner.model, expected.loss)
    output = reasoner(**batch)
    assert torch.allclose(output.loss, expected.loss, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), theirs)


@torch.no_grad()
def test_greedy_answers(reasoner, published):
    """Up to the first latent token that the published code emits: ours never samples one."""
    compared = 0
    prompts, _ = encode(reasoner, PROMPTS)
    rows, seeds = torch.arange(len(prompts)), torch.zeros(len(prompts), dtype=torch.long)
    drawn = generate(
        reasoner.model, prompts, rows, seeds, SamplingParams(max_new_tokens=12), None, reasoner.eos_token_ids
    )
    for prompt, ours in zip(prompts, drawn.token_ids, strict=True):
        ids = torch.tensor([prompt])
        theirs = published.generate(ids, torch.ones_like(ids), max_new_tokens=12)[0, len(prompt) :].tolist()
        ours = [token for token in ours if token not in reasoner.eos_token_ids]
        cut = next((i for i, token in enumerate(theirs) if token in reasoner.config.token_ids), len(theirs))
        assert ours[:cut] == theirs[:cut]
        compared += cut
    assert compared >= 12
