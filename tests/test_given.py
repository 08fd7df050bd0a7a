"""Latents taken as they are: the same logits as the rollout, and the density of the noise that made them."""

import math

import pytest
import torch
from batches import ROWS, assert_same_gradients, batch, encode, gradients
from reference import states_of, thought

from neuralese.pipeline.latent import ModelError, NoiseError, parse_noise
from neuralese.pipeline.latent.batch import Given
from neuralese.pipeline.latent.thoughts import Thought


def drawn(reasoner, side, noise):
    """A batch, the latents it got under noise, and the seeds."""
    inputs, seeds = batch(reasoner, side), torch.arange(len(ROWS)) + 3
    with torch.no_grad():
        output = reasoner(**inputs, noise=noise, noise_seeds=seeds)
    return inputs, output, seeds


def naive_log_prob(model, ids, latents, noise):
    """log N(z'_k; mu_k, sigma_k²) of one unpadded row's latents, each from a pass over the prefix before it."""
    latent_id = model.latent_config.token_ids[1]
    inputs, turn, found = list(model.get_input_embeddings()(torch.tensor(ids))), 0, []
    for position, token in enumerate(ids):
        if token == latent_id:
            hidden = states_of(model, torch.stack(inputs[:position]), ids[:position])[-1]
            mean = thought(model, hidden)
            if noise.kind == "learned":
                std = model.thought_source(hidden, model).std
            else:
                std = mean.detach().pow(2).mean().sqrt()
            std = noise.scale * std * torch.ones_like(mean)
            z = latents[turn]
            inputs[position], turn = z, turn + 1
            found.append(torch.distributions.Normal(mean, std).log_prob(z).sum())
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("source", "spec"), [("norm_matched", "gaussian:0.3"), ("raw", "gaussian:0.1"), ("gaussian_head", "learned:0.5")]
)
@pytest.mark.parametrize("options", [{}, {"window": 1}, {"window": 2, "sees_question": False}])
def test_given_latents_give_the_rollout_again_and_their_density(make, side, source, spec, options):
    reasoner, noise = make(thought_source=source, supervision_weight=0.0, **options), parse_noise(spec)
    model = reasoner.model
    inputs, rolled, _ = drawn(reasoner, side, noise)
    taken = reasoner(**inputs, given=Given(rolled.latents, noise))
    assert torch.allclose(taken.logits, rolled.logits, atol=1e-4)
    assert torch.allclose(taken.loss, rolled.loss, atol=1e-4)
    total = 0.0
    for row, ids in enumerate(encode(reasoner)[0]):
        found = naive_log_prob(model, ids, rolled.latents[row], noise)
        for ours, theirs in zip(taken.latent_logps[row], found, strict=False):
            assert ours.item() == pytest.approx(theirs.item(), rel=1e-4, abs=1e-3)
        assert not taken.latent_logps[row, len(found) :].any()
        total = total + sum(found)
    expected = gradients(model, total)
    assert_same_gradients(gradients(model, taken.latent_logps.sum()), expected, 1e-4)


def test_at_the_weights_of_the_rollout_the_density_is_that_of_epsilon(reasoner):
    noise = parse_noise("gaussian:0.3")
    inputs, rolled, seeds = drawn(reasoner, "right", noise)
    taken = reasoner(**inputs, given=Given(rolled.latents, noise))
    for row, seed in enumerate(seeds.tolist()):
        count = int((inputs["input_ids"][row] == reasoner.config.token_ids[1]).sum())
        epsilon = noise.sample_batch(torch.tensor([seed]), count, 32)[0]
        log_std = (0.3 * taken.latent_rms[row, :count]).log() * 32
        expected = -epsilon.pow(2).sum(1) / 2 - log_std - 16 * math.log(2 * math.pi)
        assert torch.allclose(taken.latent_logps[row, :count], expected, atol=2e-2)


def test_the_size_of_the_noise_may_be_that_of_the_rollout(reasoner):
    """A later policy has other latents, whose size is not what the noise was drawn at."""
    noise = parse_noise("gaussian:0.3")
    inputs, rolled, _ = drawn(reasoner, "right", noise)
    now = reasoner(**inputs, given=Given(rolled.latents, noise))
    then = reasoner(**inputs, given=Given(rolled.latents, noise, now.latent_rms))
    assert torch.allclose(then.latent_logps, now.latent_logps, rtol=1e-5)
    doubled = reasoner(**inputs, given=Given(rolled.latents, noise, 2 * now.latent_rms))
    assert (doubled.latent_logps[:, 0] != now.latent_logps[:, 0]).any()


def test_score_identities_at_four_dimensions():
    """E[grad log p] = 0 and E[p'/p] = 1, within 3 standard errors; the mean over dimensions breaks the second."""
    noise, count = parse_noise("gaussian:0.5"), 200_000
    mean = torch.tensor([1.0, -1.0, 0.5, 1.2], requires_grad=True)
    size = torch.tensor(1.0)
    z = mean.detach() + 0.5 * torch.randn(count, 4)
    score = (z - mean.detach()) / 0.25
    (ours,) = torch.autograd.grad(noise.log_prob(Thought(mean.expand(count, 4)), z, size).sum(), mean)
    assert torch.allclose(ours, score.sum(0), rtol=1e-3)
    assert (score.mean(0).abs() < 3 * score.std(0) / count**0.5).all()
    moved = mean.detach() + 0.1
    log_ratio = noise.log_prob(Thought(moved.expand(count, 4)), z, size) - noise.log_prob(
        Thought(mean.detach().expand(count, 4)), z, size
    )
    for weight, is_one in ((1.0, True), (0.25, False)):
        ratio = (weight * log_ratio).exp()
        error = (ratio.mean() - 1).abs() / (ratio.std() / count**0.5)
        assert (error < 3) == is_one


def test_kinds_without_a_density_are_named(reasoner):
    inputs, rolled, _ = drawn(reasoner, "right", parse_noise("gaussian:0.3"))
    for spec in ("spherical:0.3", "svp:0.3", "dropout:0.1"):
        with pytest.raises(NoiseError, match=f"Noise {spec} has no density"):
            reasoner(**inputs, given=Given(rolled.latents, parse_noise(spec)))
    with pytest.raises(ModelError, match="Given latents need labels"):
        reasoner(**{**inputs, "labels": None}, given=Given(rolled.latents, parse_noise("gaussian:0.3")))
