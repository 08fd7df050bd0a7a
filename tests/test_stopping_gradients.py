"""The gradient of RL with a stop head: against a loop, in closed form, and what a price on latents teaches."""

import pytest
import torch
from reference import latent_inputs, logits_of, stop_decisions
from test_estimators import naive_score
from test_grpo import G, make_trainer, rollouts, watched
from test_stopping import MOST, constant_head, cost, mixed_reward, priced, stopping

from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.train.rl.advantages import thought_advantages
from neuralese.pipeline.train.rl.estimators import parse_estimator


def naive_actions(reasoner, inputs, row, noise, estimator, weight):
    """The summed log-prob of a rollout's actions, weighted as an estimator does, by a loop over its latents."""
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
    ids, total, model = prompt + answer.tolist(), 0.0, reasoner.model
    count = prompt.count(reasoner.config.token_ids[1])
    if estimator.replay:
        epsilon = noise.sample_batch(inputs["noise_seeds"][[row]], count, 32)[0] if noise else None
        made = latent_inputs(model, ids, epsilon, lambda z, e: noise.apply(Thought(z), e))
        logits = suppress(logits_of(model, made, ids), reasoner.config.token_ids)[len(prompt) - 1 : -1]
        tokens = logits.log_softmax(-1).gather(1, answer[:, None]).sum()
        total = estimator.replay * (tokens + weight * stop_decisions(model, made, ids, MOST).sum())
    if estimator.replay < 1:
        slots = torch.tensor([i for i, token in enumerate(ids) if token == reasoner.config.token_ids[1]])
        given = model.get_input_embeddings()(torch.tensor(ids))
        given = given.index_put((slots,), inputs["latents"][row, :count].to(given))
        stops = stop_decisions(model, given, ids, MOST).sum()
        score = naive_score(reasoner, inputs | {"latents": inputs["latents"].to(given)[:, :count]}, row, noise, 1.0)
        total = total + (1 - estimator.replay) * (score + weight * stops)
    return total


def exact(reasoner):
    reasoner.model.double()
    reasoner.model.set_latent_config(compute_dtype="float64")
    return reasoner


CASES = [
    ("replay", "gaussian:0.4", {}, {}),
    ("replay", None, {"delimiters": True}, {}),
    ("replay", "gaussian:0.4", {"window": 1, "sees_question": False}, {"loss_type": "dapo"}),
    ("replay", "gaussian:0.4", {"thought_source": "projection"}, {"answers_per_thought": 2}),
    ("score_function", "gaussian:0.4", {}, {}),
    ("mix:0.25", "gaussian:0.4", {"delimiters": True}, {"answers_per_thought": 2}),
]


@pytest.mark.parametrize(("spec", "noise", "options", "how"), CASES)
def test_loss_and_gradient_are_those_of_a_loop(make, problems, tmp_path, spec, noise, options, how):
    """On-policy: that of -A (log p(answer) + log p(decisions)), summed rollout by rollout, latent by latent."""
    reasoner, how, noise_name = exact(stopping(make, **options)), dict(how), noise
    loss_type = how.pop("loss_type", "dr_grpo")
    trainer = make_trainer(
        reasoner, problems, tmp_path, noise_name, mixed_reward, {"estimator": spec, **how},
        loss_type=loss_type, scale_rewards="none", learning_rate=0.0,
    )  # fmt: skip
    inputs = rollouts(trainer)
    assert len((inputs["prompt_ids"] == reasoner.config.token_ids[1]).sum(1).unique()) > 1
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    noise, estimator = parse_noise(noise_name), parse_estimator(spec)
    shared = inputs["advantages"]
    answers = how.get("answers_per_thought", 1)
    if answers > 1:
        order = inputs["noise_seeds"].argsort(stable=True)  # answers of a thought side by side, whatever the shuffle
        assert (inputs["noise_seeds"][order].view(-1, answers).diff(dim=1) == 0).all()
        means = shared[order].view(-1, answers).mean(1) * (G // answers) / (G // answers - 1)
        shared = torch.empty_like(shared).index_copy_(0, order, means.repeat_interleave(answers))
        assert torch.allclose(inputs["stop_advantages"], shared[:, None].expand(-1, MOST - 1))
    total = sum_of_ratios = 0.0
    for row, (advantage, mean) in enumerate(zip(inputs["advantages"], shared, strict=True)):
        own, both = (naive_actions(reasoner, inputs, row, noise, estimator, weight) for weight in (0.0, 1.0))
        stops = both - own
        if answers > 1 and estimator.uses_density:  # latents are credited as decisions are
            tokens = naive_tokens(reasoner, inputs, row, noise, estimator)
            own, stops = tokens, both - tokens
        total = total - advantage * own - mean * stops
        count = int((inputs["prompt_ids"][row] == reasoner.config.token_ids[1]).sum())
        decisions, length = min(count, MOST - 1), inputs["completion_mask"][row].sum()
        latents = (1 - estimator.replay) * count
        sum_of_ratios -= advantage * length + mean * (decisions + latents)
    scale = len(shared) * trainer.max_completion_length if loss_type == "dr_grpo" else inputs["num_items_in_batch"]
    (total / scale).backward()
    assert loss.item() == pytest.approx((sum_of_ratios / scale).item(), abs=1e-5)
    tolerance = 1e-5 if spec == "replay" else 1e-3  # densities are kept in float32
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            difference = (ours[name] - parameter.grad).norm()
            assert difference <= tolerance * parameter.grad.norm() + 1e-7, name
    assert ours["stop_head.weight"].norm() > 0 and ours["stop_head.bias"].norm() > 0


def naive_tokens(reasoner, inputs, row, noise, estimator):
    """The log-prob of the answer alone, without densities of latents."""
    count = int((inputs["prompt_ids"][row] == reasoner.config.token_ids[1]).sum())
    given = naive_score(reasoner, inputs | {"latents": inputs["latents"].double()[:, :count]}, row, noise, 0.0)
    replayed = naive_actions(reasoner, inputs, row, noise, parse_estimator("replay"), 0.0)
    return estimator.replay * replayed + (1 - estimator.replay) * given


def test_stop_actions_do_not_count_as_tokens_and_have_no_kl(make, problems, tmp_path):
    """With a reference of other weights: entropy and KL are means over tokens, and the same without a stop head."""
    reasoner = stopping(make)
    reasoner.save_pretrained(tmp_path / "base")
    reasoner.model.config._name_or_path = str(tmp_path / "base")
    trainer = make_trainer(reasoner, problems, tmp_path, reward=mixed_reward, beta=0.1, num_iterations=2)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    with torch.no_grad():
        trainer.model.transformer.wpe.weight.mul_(1.3)
    trainer.state.global_step += 1
    found = []
    for _ in range(2):  # with the stop head's actions, and without
        trainer.watched.take()
        trainer.compute_loss(trainer.model, inputs)
        found.append({name: trainer._metrics["train"][name][-1] for name in ("kl", "entropy")})
        found[-1]["ratio/sd"] = watched(trainer)["ratio/sd"]
        trainer.decisions = 0
    with_head, without = found
    assert with_head == pytest.approx(without, rel=1e-5)
    assert with_head["kl"] > 1e-3


def test_later_inner_steps_start_from_the_decisions_as_drawn(make, problems, tmp_path):
    trainer = make_trainer(stopping(make), problems, tmp_path, reward=mixed_reward, num_iterations=2)
    inputs = rollouts(trainer)
    assert torch.equal(inputs["old_stop_logps"], inputs["stop_logps"]) and inputs["stop_logps"].any()
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs)
    assert watched(trainer)["rollout/replay_gap"] < 1e-4
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == 0
    with torch.no_grad():
        trainer.model.stop_head.bias.add_(3.0)  # the tokens stay as they were
    trainer.state.global_step += 1
    trainer.compute_loss(trainer.model, inputs)
    assert watched(trainer)["ratio/sd"] < 1e-5
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] > 0.05


def test_micro_batches_add_up_to_the_whole(make, problems, tmp_path):
    trainer = make_trainer(
        exact(stopping(make)), problems, tmp_path, reward=mixed_reward, loss_type="dapo", scale_rewards="none"
    )
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    found = []
    for parts in ([slice(0, 16)], [slice(0, 5), slice(5, 12), slice(12, 16)]):
        trainer.model.zero_grad()
        for part in parts:
            some = {k: v[part] if v.dim() else v for k, v in inputs.items()}
            trainer.compute_loss(trainer.model, some).backward()
        found.append({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
    for name, whole in found[0].items():
        assert (found[1][name] - whole).norm() <= 1e-6 * whole.norm() + 1e-9, name


def score_of_bias(counts, p):
    """d log p(count) / d bias of thoughts with a constant chance p to end: -p for going on, 1 - p for the end."""
    return torch.where(counts < MOST, 1 - p - (counts - 1) * p, -(counts - 1) * p)


@pytest.mark.parametrize("bias", [-0.7, 0.4])
def test_the_bias_of_the_stop_head_has_the_known_gradient(make, problems, tmp_path, bias):
    """E[latents] = Σ_{k<L} (1 - p)^k. Each rollout has its exact score; their mean is the gradient within 4 errors."""
    reasoner = make(num_latents=MOST, stop_head=True)
    constant_head(reasoner, bias)
    group = 256
    trainer = make_trainer(
        reasoner, problems[:1] * 4, tmp_path, reward=cost, num_generations=group, per_device_train_batch_size=group,
        loss_type="dr_grpo", scale_rewards="none", max_completion_length=1, learning_rate=0.0,
    )  # fmt: skip
    trainer.current_gradient_accumulation_steps = 1
    p, estimates = torch.tensor(bias).sigmoid(), []
    for _ in range(6):
        inputs = rollouts(trainer)
        trainer._buffered_inputs = None
        counts = (inputs["prompt_ids"] == reasoner.config.token_ids[1]).sum(1)
        trainer.model.zero_grad()
        trainer.compute_loss(trainer.model, inputs).backward()
        by_hand = (inputs["advantages"] * score_of_bias(counts, p)).mean()
        found = -trainer.model.stop_head.bias.grad.item()
        assert found == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-6)
        # Against the mean of its own group a rollout keeps (G - 1) / G of its gradient.
        estimates.append(found * group / (group - 1))
    true = sum(k * (1 - p) ** k * p for k in range(1, MOST)).item()  # of -E[latents]
    terms = -(counts - counts.float().mean()) * score_of_bias(counts, p)
    error = (terms.std() / (6 * group) ** 0.5).item()
    assert abs(sum(estimates) / 6 - true) < 4 * error and true > 8 * error


@pytest.mark.parametrize(("sign", "least", "most"), [(1.0, 1.0, 1.4), (-1.0, 3.5, 4.0)])
def test_a_price_on_latents_is_learned(make, problems, tmp_path, sign, least, most):
    reasoner, price = priced(make, sign)
    options = {"max_steps": 30, "learning_rate": 5e-3, "max_completion_length": 2, "lr_scheduler_type": "constant"}
    trainer = make_trainer(reasoner, problems, tmp_path, reward=price, **options)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    means = [row["rollout/num_latents"] for row in rows]
    assert 1.6 < sum(means[:3]) / 3 < 3.2 and least <= sum(means[-3:]) / 3 <= most
    assert all(row["rollout/replay_gap"] < 1e-4 for row in rows)
    assert all(row["reward"] == pytest.approx(-sign * row["rollout/num_latents"]) for row in rows)
    ended = [row["rollout/most_latents"] for row in rows]
    assert 0 < ended[0] < 1 and (ended[-1] < 0.2) == (sign > 0)


def test_answers_of_a_thought_share_its_latents_and_decisions(make, problems, tmp_path):
    for noise in (None, "gaussian:0.4"):
        seen = []

        def reward(prompts, completions, num_latents, seen=seen, **columns):
            seen.extend(num_latents)
            return [float(len(text) % 3) for text in completions]

        how = {"answers_per_thought": 2}
        inputs = rollouts(make_trainer(stopping(make), problems, tmp_path, noise, reward, how))
        counts = torch.tensor(seen).view(-1, 2)
        assert torch.equal(counts[:, 0], counts[:, 1]) and len(counts.unique()) > 1
        pairs = inputs["noise_seeds"].argsort(stable=True).view(-1, 2)
        assert torch.equal(inputs["stop_logps"][pairs[:, 0]], inputs["stop_logps"][pairs[:, 1]])
        assert torch.equal(inputs["stop_advantages"][pairs[:, 0]], inputs["stop_advantages"][pairs[:, 1]])


def test_thoughts_with_several_answers_keep_the_whole_gradient_of_their_decisions():
    """Thoughts of 2 latents at most, end with p = sigmoid(0), reward the answer of a coin that favours short ones."""
    groups, thoughts, answers = 40_000, 2, 4
    ends = (torch.rand(groups, thoughts, 1) < 0.5).double()
    rewards = (torch.rand(groups, thoughts, answers) < 0.3 + 0.4 * ends).double().flatten(1)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    score = (ends - 0.5).expand(-1, -1, answers).flatten()
    for credited, is_true in ((thought_advantages(advantages, 8, answers), True), (advantages, False)):
        estimates = (credited * score).view(groups, -1).mean(1)
        error = (estimates.mean() - 0.4 * 0.25).abs() / (estimates.std() / groups**0.5)
        assert (error < 3) == is_true
