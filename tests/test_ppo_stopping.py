"""PPO with a stop head: what its critic values, its loss and gradient against a loop, and what a price teaches."""

import pytest
import torch
from test_grpo import watched
from test_ppo import make_ppo, naive_gae, naive_states, random_head, rollouts, value
from test_stopping import MOST, constant_head, cost, mixed_reward, priced, stopping
from test_stopping_gradients import exact, naive_actions, naive_tokens, score_of_bias

from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.train.rl.estimators import parse_estimator
from neuralese.pipeline.train.rl.ppo import Critic

NOISE = "gaussian:0.4"


def counts_of(reasoner, inputs):
    return (inputs["prompt_ids"] == reasoner.config.token_ids[1]).sum(1)


def reward_of(trainer, inputs, row, count):
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
    return mixed_reward([""], [trainer.processing_class.decode(answer, skip_special_tokens=True)], [count])[0]


@pytest.mark.parametrize(
    ("options", "how"),
    [({}, {}), ({"delimiters": True}, {"num_iterations": 2}), ({"window": 1, "sees_question": False}, {})],
    ids=["one inner step", "two, with delimiters", "a window"],
)
def test_a_decision_shares_the_step_of_the_latent_that_follows_it(make, problems, tmp_path, options, how):
    """Steps: latent 1, going on and latent 2, ..., stopping before the most there can be, tokens."""
    reasoner = exact(stopping(make, **options))
    random_head(reasoner)
    reasoner.model.value_head.double()
    critic = Critic(gamma=0.9, lam=0.8, whiten_advantages=False)
    trainer = make_ppo(reasoner, problems, tmp_path, critic, "score_function", mixed_reward, **how)
    inputs = rollouts(trainer)
    counts, steps = counts_of(reasoner, inputs).tolist(), trainer._actions(inputs)
    assert {1, MOST} < set(counts)
    thought = torch.cat([inputs["latent_advantages"], inputs["advantages"]], 1)
    for row, count in enumerate(counts):
        mask = steps[row].bool()
        assert mask[:MOST].sum() == min(count + 1, MOST)
        values = value(reasoner.model.value_head, naive_states(reasoner, inputs, row, parse_noise(NOISE))).tolist()
        assert inputs["old_values"][row][mask].tolist() == pytest.approx(values, abs=1e-4)
        rewards = [0.0] * (len(values) - 1) + [reward_of(trainer, inputs, row, count)]
        expected = naive_gae(rewards, values, 0.9, 0.8)
        assert thought[row][mask].tolist() == pytest.approx(expected, abs=1e-3)
        decisions = min(count, MOST - 1)  # decision k is made in the state before step k + 1
        found = inputs["stop_advantages"][row]
        assert found[:decisions].tolist() == pytest.approx(expected[1 : decisions + 1], abs=1e-3)
        assert not found[decisions:].any()
    drawn = inputs["stop_logps"]
    trainer.compute_loss(trainer.model, inputs)
    assert watched(trainer)["rollout/replay_gap"] < 1e-5 and drawn.any()  # of tokens and decisions
    assert not how or torch.allclose(inputs["old_stop_logps"].to(drawn), drawn, atol=1e-5)


@pytest.mark.parametrize("spec", ["replay", "score_function"])
def test_loss_and_gradient_are_those_of_a_loop(make, problems, tmp_path, spec):
    """Of -A log p over answer tokens, decisions and, under the score function, latents, and of the critic."""
    reasoner = exact(stopping(make))
    random_head(reasoner)
    reasoner.model.value_head.double()
    trainer = make_ppo(reasoner, problems, tmp_path, Critic(vf_coef=0.3, lam=1.0), spec, mixed_reward, loss_type="dapo")
    inputs, noise, estimator = rollouts(trainer), parse_noise(NOISE), parse_estimator(spec)
    for name in ("advantages", "latent_advantages", "stop_advantages"):  # one a rollout and kind, as the loop has it
        inputs[name] = torch.randn(len(inputs[name]), 1).double().expand_as(inputs[name]).contiguous()
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    steps, policy, critic_loss = trainer._actions(inputs), 0.0, 0.0
    for row in range(len(steps)):
        rest, both = (naive_actions(reasoner, inputs, row, noise, estimator, weight) for weight in (0.0, 1.0))
        tokens = naive_tokens(reasoner, inputs, row, noise, estimator) if estimator.uses_density else rest
        parts = {"advantages": tokens, "latent_advantages": rest - tokens, "stop_advantages": both - rest}
        policy = policy - sum(inputs[name][row, 0] * logp for name, logp in parts.items())
        states = naive_states(reasoner, inputs, row, noise).detach()
        errors = value(trainer.model.value_head, states) - inputs["returns"][row][steps[row].bool()]
        critic_loss = critic_loss + 0.5 * errors.pow(2).sum()
    (policy / inputs["completion_mask"].sum() + 0.3 * critic_loss / steps.sum()).backward()
    tolerance = 1e-4 if spec == "replay" else 1e-3  # densities are kept in float32
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            assert (ours[name] - parameter.grad).norm() <= tolerance * parameter.grad.norm() + 1e-6, name
    assert ours["stop_head.weight"].norm() > 0 and ours["value_head.weight"].norm() > 0


@pytest.mark.parametrize("bias", [-0.7, 0.4])
def test_the_bias_of_the_stop_head_has_the_known_gradient(make, problems, tmp_path, bias):
    """E[latents] = Σ_{k<L} (1 - p)^k. A critic that says 0 and lam 1 leave the plain score; its mean is the gradient.

    With a critic of any other constant it is the same: what a state is worth is no matter of the decision made there.
    """
    group, p, estimates, scores = 256, torch.tensor(bias).sigmoid(), [], []
    for constant in (0.0, -2.0):
        reasoner = make(num_latents=MOST, stop_head=True)
        constant_head(reasoner, bias)
        trainer = make_ppo(
            reasoner, problems[:1] * 4, tmp_path, Critic(lam=1.0, vf_coef=0.0, whiten_advantages=False), reward=cost,
            num_generations=group, per_device_train_batch_size=group, max_completion_length=1, learning_rate=0.0,
            seed=int(-constant),
        )  # fmt: skip
        torch.nn.init.constant_(trainer.model.value_head.bias, constant)
        for _ in range(4):
            inputs = rollouts(trainer)
            trainer._buffered_inputs = None
            counts = counts_of(reasoner, inputs)
            trainer.model.zero_grad()
            trainer.compute_loss(trainer.model, inputs).backward()
            score = score_of_bias(counts, p)
            by_hand = ((-counts - constant) * score).mean()
            found = -trainer.model.stop_head.bias.grad.item()
            assert found == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-6)
            estimates.append(found)
            scores.append((-counts - constant) * score)
    true = sum(k * (1 - p) ** k * p for k in range(1, MOST)).item()  # of -E[latents]
    error = torch.cat(scores).std().item() / len(torch.cat(scores)) ** 0.5
    assert abs(sum(estimates) / len(estimates) - true) < 4 * error and true > 8 * error


@pytest.mark.parametrize(("sign", "least", "most"), [(1.0, 1.0, 1.4), (-1.0, 3.5, 4.0)])
def test_a_price_on_latents_is_learned(make, problems, tmp_path, sign, least, most):
    reasoner, price = priced(make, sign)
    trainer = make_ppo(
        reasoner, problems, tmp_path, reward=price, max_steps=40, learning_rate=5e-3, max_completion_length=2,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    means = [row["rollout/num_latents"] for row in rows]
    assert 1.6 < sum(means[:3]) / 3 < 3.2 and least <= sum(means[-3:]) / 3 <= most
    assert all(row["rollout/replay_gap"] < 1e-4 for row in rows)
