"""Estimators against the closed forms of bandits: a latent, noise, and a reward of it."""

import numpy as np
import pytest
import torch

from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import Thought
from neuralese.pipeline.train.rl.estimators import parse_estimator

ALL = ["replay", "score_function", "mix:0.3"]
UNIT = parse_noise("gaussian:1")  # for a scalar mean of 1: a standard deviation of 1


def bandit(estimator, beta, count=200_000):
    """Gradient estimates (count,) of E[o], o ~ Bernoulli(sigmoid(beta z)), z ~ N(mu, 1), by mu at mu = 1.

    The 1 is rms(mu), which counts as given.
    """
    mu = torch.ones(count, 1, dtype=torch.float64, requires_grad=True)
    epsilon = torch.randn(count, 1, dtype=torch.float64)
    z = UNIT.apply(Thought(mu), epsilon)
    reward = (torch.rand(count, 1, dtype=torch.float64) < (beta * z).sigmoid()).double()
    sign = 2 * reward - 1
    total = 0.0
    for share, is_score in estimator.parts():
        if is_score:
            constant = z.detach()
            logp = torch.nn.functional.logsigmoid(sign * beta * constant).squeeze(1)
            logp = logp + estimator.weigh(UNIT.log_prob(Thought(mu), constant), 1)
        else:
            logp = torch.nn.functional.logsigmoid(sign * beta * z).squeeze(1)
        total = total + share * (reward.squeeze(1) * logp).sum()
    (gradient,) = torch.autograd.grad(total, mu)
    return gradient.squeeze(1)


@pytest.mark.parametrize("spec", ALL)
@pytest.mark.parametrize(("beta", "true"), [(1.0, 0.1783), (10.0, 0.2418), (1000.0, 0.24197)])
def test_a_logistic_bandit_has_the_known_gradient(spec, beta, true):
    """d/dmu E[sigmoid(beta z)] at mu = 1, sigma = 1; for a steep beta that of Phi(mu), which is phi(1)."""
    estimates = bandit(parse_estimator(spec), beta)
    error = estimates.std() / len(estimates) ** 0.5
    assert abs(estimates.mean() - true) < 3 * error


@pytest.mark.parametrize("spec", ALL)
def test_noise_whose_size_has_parameters_is_taken_as_given(spec):
    """z = mu (1 + epsilon) at mu = 1: d/dmu E[sigmoid(z)] is 0.125, that with the size fixed at 1 is 0.178."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / weights.sum()

    def expected(mu, size):
        return (weights / (1 + np.exp(-(mu + size * nodes)))).sum()

    step = 1e-5
    whole = (expected(1 + step, 1 + step) - expected(1 - step, 1 - step)) / (2 * step)
    fixed = (expected(1 + step, 1) - expected(1 - step, 1)) / (2 * step)
    assert (whole, fixed) == (pytest.approx(0.125, abs=5e-4), pytest.approx(0.1783, abs=5e-4))
    estimates = bandit(parse_estimator(spec), 1.0)
    error = float(estimates.std()) / len(estimates) ** 0.5
    assert abs(float(estimates.mean()) - fixed) < 3 * error and abs(float(estimates.mean()) - whole) > 10 * error


def test_replay_suffers_from_a_saturated_head_and_score_does_not():
    spread = {
        spec: [bandit(parse_estimator(spec), beta).std() for beta in (1.0, 1000.0)]
        for spec in ("replay", "score_function")
    }
    assert spread["replay"][0] < spread["score_function"][0] and spread["replay"][1] > 3 * spread["score_function"][1]


@pytest.mark.parametrize("size", [1, 4])
def test_a_quadratic_reward_has_the_known_gradient(size):
    """R = -|z - a|², z ~ N(mu, sigma²): grad_mu = -2 (mu - a), by the score."""
    count, target = 400_000, torch.linspace(0.0, 1.5, size, dtype=torch.float64)
    mu = torch.ones(count, size, dtype=torch.float64, requires_grad=True)
    z = parse_noise("gaussian:0.5").apply(Thought(mu), torch.randn(count, size, dtype=torch.float64)).detach()
    reward = -(z - target).pow(2).sum(1)
    logp = parse_noise("gaussian:0.5").log_prob(Thought(mu), z)
    (gradient,) = torch.autograd.grad(((reward - reward.mean()) * logp).sum(), mu)
    error = gradient.std(0) / count**0.5
    assert ((gradient.mean(0) + 2 * (1.0 - target)).abs() < 3 * error).all()


def test_mirrored_thoughts_lower_the_variance_of_replay():
    """For the same bandit, of which the reward is near linear in the noise: pairs against independent draws."""

    def spread(antithetic):
        seeds = torch.tensor([[s, -s if antithetic else s + 10**6] for s in range(1, 4001)]).flatten()
        epsilon = UNIT.sample_batch(seeds, 1, 1)[:, 0].double()
        mu = torch.ones(8000, 1, dtype=torch.float64, requires_grad=True)
        value = (0.5 * UNIT.apply(Thought(mu), epsilon)).sigmoid()  # what the answer's expectation over tokens gives
        (gradient,) = torch.autograd.grad(value.sum(), mu)
        return gradient.view(-1, 2).mean(1).std()

    assert spread(True) < 0.8 * spread(False)
