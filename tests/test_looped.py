"""Looped latents: all of them refined at once, each from the state at its own position (LOTUS, arXiv 2606.31779)."""

import pytest
import torch
from batches import ROWS, assert_same_gradients, batch, encode, gradients, unlabelled
from reference import latent_loss, looped_forward, looped_inputs
from test_reasoner import SOURCES

from neuralese.pipeline.latent import LatentConfig, ModelError, parse_noise
from neuralese.pipeline.latent.thoughts import Thought


@pytest.mark.parametrize(("source", "options"), SOURCES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_loss_and_gradients_equal_the_naive_loops(make, source, options, side):
    reasoner = make(thought_source=source, thought_options=options, supervision_weight=0.3, loops=3)
    expected = latent_loss(reasoner.model, *encode(reasoner), 0.3)
    theirs = gradients(reasoner.model, expected)
    output = reasoner(**batch(reasoner, side))
    assert torch.allclose(output.loss, expected, atol=1e-5)
    assert_same_gradients(gradients(reasoner.model, output.loss), theirs)


@pytest.mark.parametrize("loops", [1, 2, 4])
@pytest.mark.parametrize("injection", ["add", "replace"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_latents_equal_the_naive_loops(make, loops, injection, side):
    reasoner = make(thought_source="raw", loops=loops, injection=injection)
    inputs = batch(reasoner, side)
    output = reasoner(**unlabelled(inputs))
    for row, ids in enumerate(encode(reasoner)[0]):
        logits = output.logits[row][inputs["attention_mask"][row].bool()]
        assert torch.allclose(logits, looped_forward(reasoner.model, ids), atol=1e-5)
        latents = looped_inputs(reasoner.model, ids)[torch.tensor(ids) == reasoner.config.token_ids[1]]
        assert torch.allclose(output.latents[row, : len(latents)], latents, atol=1e-5)
        assert not output.latents[row, len(latents) :].any()


def test_each_loop_and_injection_is_another_computation(make):
    """Else the tests above would not tell them apart."""
    inputs = None
    losses = []
    for options in ({"loops": 1}, {"loops": 2}, {"loops": 2, "injection": "replace"}, {"jacobi_sweeps": 2}, {}):
        reasoner = make(**options)
        inputs = batch(reasoner, "right")
        losses.append(reasoner(**inputs).loss.item())
    assert min(abs(a - b) for i, a in enumerate(losses) for b in losses[:i]) > 1e-4


def test_the_first_pass_alone_is_pause_tokens(make):
    """The thought that is put in place of the embedding is the embedding: as many loops as one likes change nothing."""
    pause = make(thought_source="pause")
    inputs = unlabelled(batch(pause, "right"))
    expected = pause(**inputs).logits
    mask = inputs["attention_mask"].bool()
    looped = make(thought_source="pause_multi", loops=3, injection="replace")
    assert torch.allclose(looped(**inputs).logits[mask], expected[mask], atol=1e-5)


def test_noise_falls_on_every_loop_and_comes_from_the_row_seed_alone(make):
    reasoner, noise = make(loops=2), parse_noise("gaussian:0.5")
    inputs = unlabelled(batch(reasoner, "right"))
    seeds = torch.tensor([3, 1, 4, -1, 5])
    output = reasoner(**inputs, noise=noise, noise_seeds=seeds)
    for row, ids in enumerate(encode(reasoner)[0]):
        count = ids.count(reasoner.config.token_ids[1])
        epsilon = noise.sample_batch(seeds[[row]], count, 32, loops=2)[0]
        made = looped_inputs(reasoner.model, ids, epsilon, lambda z, e: noise.apply(Thought(z), e))
        latents = made[torch.tensor(ids) == reasoner.config.token_ids[1]]
        assert torch.allclose(output.latents[row, :count], latents, atol=1e-5)


def test_noise_of_the_first_loop_alone(make):
    reasoner, noise, all_loops = make(loops=3), parse_noise("gaussian:5@first"), parse_noise("gaussian:5")
    first = noise.sample_batch(torch.tensor([3, 8]), 4, 32, loops=3)
    every = all_loops.sample_batch(torch.tensor([3, 8]), 4, 32, loops=3)
    assert first.shape == every.shape == (2, 3, 4, 32)
    assert torch.equal(first[:, 0], every[:, 0]) and every.all() and not first[:, 1:].any()
    inputs = batch(reasoner, "right")
    seeds = torch.arange(len(ROWS))
    losses = [reasoner(**inputs, noise=kind, noise_seeds=seeds).loss for kind in (noise, all_loops)]
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.parametrize("steps", [0, 1, 2, 9])
def test_truncated_backpropagation_equals_the_naive_one(make, steps):
    reasoner = make(supervision_weight=0.5, loops=3, backprop_steps=steps)
    expected = latent_loss(reasoner.model, *encode(reasoner), 0.5, backprop_steps=steps)
    theirs = gradients(reasoner.model, expected)
    assert_same_gradients(gradients(reasoner.model, reasoner(**batch(reasoner, "left")).loss), theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loops": 0}, "loops=0"),
        ({"loops": 2, "jacobi_sweeps": 2}, "two ways"),
        ({"loops": 2, "stop_head": True}, "stop_head needs latents made one after the other. Remove it or loops"),
        ({"loops": 2, "window": 1}, "window needs latents made one after the other. Remove it or loops"),
        ({"jacobi_sweeps": 2, "sees_question": False}, "sees_question=false needs .* Remove it or jacobi_sweeps"),
        ({"injection": "mul"}, "injection='mul' .*'add', 'replace'"),
    ],
)
def test_sections_that_contradict_themselves_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        LatentConfig(**options)
