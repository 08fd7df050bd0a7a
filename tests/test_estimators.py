"""The trainer's gradient under each estimator against a naive one, and the weights of rollouts."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from reference import latent_inputs
from test_given import naive_log_prob
from test_grpo import make_trainer, rollouts

from neuralese.data.errors import UserError
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.rl.advantages import max_at_k_advantages, thought_advantages
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.estimators import EstimatorError, check_estimator, parse_estimator
from neuralese.pipeline.train.rl.logps import answers_of
from neuralese.pipeline.train.rl.rollouts import draw_seeds
from neuralese.pipeline.train.rl.settings import check_batch


def test_the_gradient_of_a_recurrence_equals_finite_differences(make):
    """log p(answer) after three latents at a fixed epsilon, along a random direction of all weights."""
    reasoner, noise = make(num_latents=3), parse_noise("gaussian:0.3")
    model = reasoner.model.double()
    ids = torch.tensor([[*reasoner.prompt_ids("3 + 4 ="), 5, 1]])
    labels = ids.clone()
    labels[:, :-2] = -100

    def value():
        return reasoner(input_ids=ids, labels=labels, noise=noise, noise_seeds=torch.tensor([3])).loss

    value().backward()
    direction = [torch.randn_like(p) for p in model.parameters()]
    slope = sum((p.grad * v).sum() for p, v in zip(model.parameters(), direction, strict=True))
    step, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for parameter, v in zip(model.parameters(), direction, strict=True):
                parameter += sign * step * v
            values.append(value())
    assert ((values[0] - values[1]) / (2 * step)).item() == pytest.approx(slope.item(), rel=1e-4)


def naive_score(reasoner, inputs, row, noise, weight):
    """Log-probs of the answer given the drawn latents, and weighted log-densities of those, of one rollout."""
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
    latents, ids = inputs["latents"][row], prompt + answer.tolist()
    embeds = reasoner.model.get_input_embeddings()(torch.tensor(ids))
    slots = [i for i, token in enumerate(ids) if token == reasoner.config.token_ids[1]]
    embeds = embeds.index_put((torch.tensor(slots),), latents[: len(slots)])
    logits = reasoner.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
    logits = suppress(logits, reasoner.config.token_ids)[len(prompt) - 1 : -1]
    tokens = logits.log_softmax(-1).gather(1, answer[:, None]).sum()
    return tokens + weight * sum(naive_log_prob(reasoner.model, prompt, latents, noise))


def naive_replay(reasoner, inputs, row, noise):
    prompt = inputs["prompt_ids"][row][inputs["prompt_mask"][row].bool()].tolist()
    answer = inputs["completion_ids"][row][inputs["completion_mask"][row].bool()]
    count = prompt.count(reasoner.config.token_ids[1])
    epsilon = noise.sample_batch(inputs["noise_seeds"][[row]], count, 32)[0]
    embeds = latent_inputs(reasoner.model, prompt + answer.tolist(), epsilon, lambda z, e: noise.apply(Thought(z), e))
    logits = reasoner.model(inputs_embeds=embeds[None], use_cache=False).logits[0]
    logits = suppress(logits, reasoner.config.token_ids)[len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, answer[:, None]).sum()


@pytest.mark.parametrize("spec", ["score_function", "score_function_rsqrt_d", "score_function_mean", "mix:0.25"])
def test_the_first_step_is_reinforce_on_latents_and_tokens(reasoner, problems, tmp_path, spec):
    """Loss gradient = that of -A (log p(o | z) + w log p(z)), at ratio 1 and without clipping."""
    options = {"loss_type": "dr_grpo", "scale_rewards": "none", "learning_rate": 0.0}
    trainer = make_trainer(reasoner, problems, tmp_path, how={"estimator": spec}, **options)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.zero_grad()
    trainer.compute_loss(trainer.model, inputs).backward()
    ours = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    assert set(trainer._metrics["train"]["clip_ratio/region_mean"]) == {0.0}
    trainer.model.zero_grad()
    noise, estimator = parse_noise("gaussian:0.4"), parse_estimator(spec)
    weight, total = estimator.weight(32), 0.0
    for row, advantage in enumerate(inputs["advantages"]):
        score = naive_score(reasoner, inputs, row, noise, weight)
        if estimator.replay:
            score = (1 - estimator.replay) * score + estimator.replay * naive_replay(reasoner, inputs, row, noise)
        total = total - advantage * score
    (total / (len(inputs["advantages"]) * trainer.max_completion_length)).backward()
    for name, parameter in trainer.model.named_parameters():
        assert (ours[name] - parameter.grad).norm() <= 1e-3 * parameter.grad.norm() + 1e-7, name


def test_later_inner_steps_start_from_the_densities_of_the_rollout(reasoner, problems, tmp_path):
    """Before the weights have moved, the ratios of latents and tokens are one; afterwards they are not."""
    trainer = make_trainer(reasoner, problems, tmp_path, how={"estimator": "score_function_rsqrt_d"}, num_iterations=2)
    inputs = rollouts(trainer)
    extended = trainer._with_actions(inputs, latents_act=True)

    def gap():
        with trainer.working(Work(extended, latents_act=True, others=inputs["latents"].size(1))):
            logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers_of(extended))
        return (logps - extended["old_per_token_logps"])[extended["completion_mask"].bool()].abs().max()

    assert gap() < 1e-3
    with torch.no_grad():
        trainer.model.transformer.wpe.weight.mul_(1.1)
    assert gap() > 0.1


@pytest.mark.parametrize("spec", ["score_function_mean", "mix:0.5"])
def test_estimators_train_with_a_reference_and_several_inner_steps(make, problems, tmp_path, spec):
    reasoner = make(num_latents=2)
    reasoner.save_pretrained(tmp_path / "base")
    reasoner.model.config._name_or_path = str(tmp_path / "base")
    trainer = make_trainer(
        reasoner, problems, tmp_path, how={"estimator": spec}, beta=0.1, num_iterations=2, max_steps=4,
        per_device_train_batch_size=8, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer.train()
    log = [row for row in trainer.state.log_history if "kl" in row]
    assert log[0]["kl"] == pytest.approx(0.0, abs=1e-5) and log[-1]["kl"] > 0  # that of the answers alone
    assert all(0 < row["entropy"] < 4 for row in log)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_max_at_k_advantages_equal_their_definition(k):
    rewards = torch.tensor([[0.0, 1.0, 0.0, 0.5, 0.5], [2.0, -1.0, 0.3, 0.3, 0.7]], dtype=torch.float64)
    for group, found in zip(rewards.tolist(), max_at_k_advantages(rewards, k), strict=True):
        for i, reward in enumerate(group):
            others = group[:i] + group[i + 1 :]
            with_it = [max([reward, *subset]) for subset in itertools.combinations(others, k - 1)]
            without = [max(subset) for subset in itertools.combinations(others, k)]
            expected = sum(with_it) / len(with_it) - sum(without) / len(without)
            assert found[i].item() == pytest.approx(expected, abs=1e-12)
    with pytest.raises(EstimatorError, match="max_at=5 must lie between 1 and 4"):
        max_at_k_advantages(rewards, 5)


def test_max_at_k_advantages_follow_the_gradient_of_the_best_of_k():
    """One parameter: p(reward 1) = sigmoid(theta), E[max of k] = 1 - (1 - p)^k."""
    theta, k, groups, size = torch.tensor(-1.0, dtype=torch.float64), 3, 50_000, 8
    p = theta.sigmoid()
    rewards = (torch.rand(groups, size, dtype=torch.float64) < p).double()
    score = rewards - p  # d log p(reward) / d theta
    estimates = k * (max_at_k_advantages(rewards, k) * score).mean(1)
    true = k * (1 - p) ** (k - 1) * p * (1 - p)
    assert abs(estimates.mean() - true) < 3 * estimates.std() / groups**0.5


def test_thoughts_with_several_answers_keep_their_whole_gradient():
    """The logistic bandit with 2 thoughts x 4 answers, credited as TRL and `thought_advantages` do; 0.1783 is true."""
    groups, thoughts, answers = 40_000, 2, 4
    z = 1.0 + torch.randn(groups, thoughts, 1, dtype=torch.float64)
    rewards = (torch.rand(groups, thoughts, answers, dtype=torch.float64) < z.sigmoid()).double().flatten(1)
    advantages = (rewards - rewards.mean(1, keepdim=True)).flatten()
    score = (z - 1.0).expand(-1, -1, answers).flatten()
    for credited, is_true in ((thought_advantages(advantages, 8, answers), True), (advantages, False)):
        estimates = (credited * score).view(groups, -1).mean(1)
        error = (estimates.mean() - 0.1783).abs() / (estimates.std() / groups**0.5)
        assert (error < 3) == is_true


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.trainer.loss_type=bnpo"], r"loss_type=bnpo does not fit .* Take one of \['dapo', 'dr_grpo', 'cispo'\]"),
        (["rl.trainer.off_policy_mask_threshold=0.5"], "off_policy_mask_threshold=0.5 does not fit"),
        (["rl.max_at=2", "rl.answers_per_thought=2"], "rl.max_at with answers_per_thought=2"),
        (["rl.noise=svp:0.3"], "needs noise with a density"),
        (["rl.answers_per_thought=3"], "must be a multiple of 3"),
        (
            ["rl.noise=null", "rl.estimator=replay", "rl.antithetic=true"],
            "Remove rl.antithetic and rl.answers_per_thought",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(overrides, message):
    with pytest.raises(UserError, match=message):
        check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", ["rl.estimator=score_function", *overrides]))


def test_batches_hold_whole_pairs_of_thoughts():
    options = ["rl.antithetic=true", "rl.answers_per_thought=2", "rl.trainer.per_device_train_batch_size=4"]
    check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", options))
    # As on two processes, which share a group of 4 with 6 rollouts each.
    settings = load_recipe(ROOT / "tests" / "tiny.yaml", options).rl
    args = SimpleNamespace(per_device_train_batch_size=2, steps_per_generation=3)
    with pytest.raises(UserError, match="draws 6 rollouts at a time"):
        check_batch(settings, args)
    with pytest.raises(UserError, match="draws 6 rollouts at a time, which is no multiple of 4"):
        draw_seeds(6, 2, True)


def test_the_kl_of_a_score_is_that_of_the_answers(make, problems, tmp_path):
    """Latents stand among the actions without a KL of their own, and do not thin out the mean."""
    reasoner = make(num_latents=3)
    reasoner.save_pretrained(tmp_path / "base")
    reasoner.model.config._name_or_path = str(tmp_path / "base")
    trainer = make_trainer(reasoner, problems, tmp_path, how={"estimator": "score_function_mean"}, beta=0.1)
    with torch.no_grad():
        trainer.model.transformer.wpe.weight.mul_(1.3)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs)
    mask, reference = inputs["completion_mask"].bool(), inputs["ref_per_token_logps"]
    difference = (reference - inputs["sampling_per_token_logps"])[mask]
    expected = (difference.exp() - difference - 1).mean().item()
    assert trainer._metrics["train"]["kl"] == pytest.approx([expected], rel=1e-3) and expected > 1e-4


def test_seeds_of_thoughts_answers_and_pairs():
    assert len(set(draw_seeds(8, 1, False).tolist())) == 8
    seeds = draw_seeds(8, 2, True)
    assert torch.equal(seeds[::2], seeds[1::2]) and torch.equal(seeds[:2], -seeds[2:4]) and len(seeds.unique()) == 4
    with pytest.raises(EstimatorError, match="draws 6 rollouts at a time, which is no multiple of 4"):
        draw_seeds(6, 2, True)


def test_bad_estimators_are_named():
    for spec in ("reply", "mix", "mix:2", "mix:x"):
        with pytest.raises(EstimatorError, match=f"Unknown estimator '{spec}'"):
            parse_estimator(spec)
    for noise in ("spherical:0.3", "gaussian:0.3@first", None):
        with pytest.raises(EstimatorError, match="needs noise with a density on every latent"):
            check_estimator(parse_estimator("mix:0.5"), parse_noise(noise), "sequential")
    for mode in ("jacobi", "looped"):
        with pytest.raises(EstimatorError, match=rf"Set rl.estimator=replay, or leave latent.mode={mode}\."):
            check_estimator(parse_estimator("score_function"), parse_noise("gaussian:0.3"), mode)
    check_estimator(parse_estimator("replay"), None, "looped")
