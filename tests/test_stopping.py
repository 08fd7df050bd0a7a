"""RL with a stop head: draws and replays of its decisions, their gradient, and what a price on latents does."""

import pytest
import torch
from conftest import ROOT
from reference import latent_inputs, logits_of, stop_decisions
from test_estimators import naive_score
from test_grpo import G, make_trainer, rollouts

from neuralese.data.errors import UserError
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.geometry import cosine_sums
from neuralese.pipeline.latent.sampling.generate import Generated, SamplingParams, generate
from neuralese.pipeline.latent.stopping import StopDraws
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.rl.actions import shortened, stop_mask
from neuralese.pipeline.train.rl.advantages import thought_advantages
from neuralese.pipeline.train.rl.estimators import parse_estimator
from neuralese.pipeline.train.rl.groups import replace_rows
from neuralese.pipeline.train.rl.metrics import replay_gap, thought_metrics

MOST = 4


def stopping(make, **options):
    """A reasoner whose thoughts end after different numbers of latents."""
    reasoner = make(num_latents=MOST, stop_head=True, **options)
    torch.nn.init.normal_(reasoner.model.stop_head.weight, std=0.25)
    torch.nn.init.constant_(reasoner.model.stop_head.bias, -0.5)
    return reasoner


def constant_head(reasoner, bias):
    """Every decision ends a thought with the chance sigmoid(bias), whatever the state."""
    torch.nn.init.zeros_(reasoner.model.stop_head.weight)
    torch.nn.init.constant_(reasoner.model.stop_head.bias, bias)


def cost(prompts, completions, num_latents, **columns):
    return [-float(count) for count in num_latents]


def mixed_reward(prompts, completions, num_latents, **columns):
    """Of the answer and of the latents, so that no group is of one reward."""
    return [len(text) % 3 - 0.5 * count for text, count in zip(completions, num_latents, strict=True)]


def sample(reasoner, prompts, rows, seeds, noise=None, draws_stops=True):
    sampling = SamplingParams(1.0, 5, draws_stops=draws_stops)
    noise = parse_noise(noise)
    return generate(reasoner.model, prompts, torch.tensor(rows), seeds, sampling, noise, reasoner.eos_token_ids)


@pytest.mark.parametrize("noise", [None, "gaussian:0.4"])
@pytest.mark.parametrize("options", [{}, {"delimiters": True}, {"window": 1, "sees_question": False}])
def test_a_drawn_thought_depends_on_its_seed_alone_and_is_replayed(make, problems, noise, options):
    reasoner = stopping(make, **options)
    model, latent = reasoner.model, reasoner.config.token_ids[1]
    prompts = [reasoner.prompt_ids(problem.question) for problem in problems[:3]] + [reasoner.prompt_ids("3 =")]
    rows, seeds = [i // 6 for i in range(24)], torch.arange(24) + 40
    drawn = sample(reasoner, prompts, rows, seeds, noise)
    assert set(drawn.num_latents.tolist()) == {1, 2, 3, 4}
    for i in range(0, 24, 2):
        alone = sample(reasoner, [prompts[rows[i]]], [0], seeds[[i]], noise)
        count = int(drawn.num_latents[i])
        assert alone.num_latents.tolist() == [count] and alone.token_ids[0] == drawn.token_ids[i]
        assert torch.allclose(alone.stop_logps[0], drawn.stop_logps[i], atol=1e-5)
        assert torch.allclose(alone.latents[0], drawn.latents[i], atol=1e-4)
        (prompt,) = shortened([prompts[rows[i]]], [count], latent)
        ids, width = prompt + drawn.token_ids[i], len(drawn.token_ids[i])
        draws = parse_noise(noise)
        epsilon = draws.sample_batch(seeds[[i]], count, 32)[0] if draws else None
        inputs = latent_inputs(model, ids, epsilon, lambda z, e, draws=draws: draws.apply(Thought(z), e))
        logps = suppress(logits_of(model, inputs, ids), reasoner.config.token_ids).log_softmax(-1)[-width - 1 : -1]
        said = logps.gather(1, torch.tensor(drawn.token_ids[i])[:, None]).squeeze(1)
        assert torch.allclose(said, drawn.logprobs[i, :width], atol=1e-4)
        decided = stop_decisions(model, inputs, ids, MOST)
        assert torch.allclose(decided, drawn.stop_logps[i, : len(decided)], atol=1e-5)
        assert not drawn.stop_logps[i, len(decided) :].any()


def test_the_chances_of_all_lengths_sum_to_one_and_draws_follow_them(make):
    reasoner, count = stopping(make), 2000
    prompt = reasoner.prompt_ids("3 + 4 =")
    chances = []
    for length in range(1, MOST + 1):
        (ids,) = shortened([prompt], [length], reasoner.config.token_ids[1])
        inputs = latent_inputs(reasoner.model, ids)
        chances.append(stop_decisions(reasoner.model, inputs, ids, MOST).sum().exp().item())
    assert sum(chances) == pytest.approx(1.0, abs=1e-5) and min(chances) > 0.02
    drawn = sample(reasoner, [prompt], [0] * count, torch.arange(count))
    for length, chance in enumerate(chances, 1):
        share = (drawn.num_latents == length).float().mean().item()
        assert abs(share - chance) < 4 * (chance * (1 - chance) / count) ** 0.5


def test_decisions_of_opposite_seeds_are_independent():
    head = torch.nn.Linear(3, 1)
    torch.nn.init.zeros_(head.weight), torch.nn.init.zeros_(head.bias)
    seeds = torch.arange(1, 40_001)
    ends = [StopDraws(head, s, 2)(torch.zeros(len(s), 3), torch.ones_like(s)).float() for s in (seeds, -seeds)]
    assert abs(torch.corrcoef(torch.stack(ends))[0, 1]) < 4 / 200
    for end in ends:
        assert abs(end.mean() - 0.5) < 4 * 0.5 / 200


def test_evaluation_takes_the_likelier_decision(make, problems):
    reasoner = stopping(make)
    prompts = [reasoner.prompt_ids(problem.question) for problem in problems[:6]]
    taken = sample(reasoner, prompts, range(6), torch.arange(6), draws_stops=False)
    again = sample(reasoner, prompts, range(6), torch.arange(6) + 99, draws_stops=False)
    assert taken.stop_logps is None and torch.equal(taken.num_latents, again.num_latents)
    for prompt, count in zip(prompts, taken.num_latents.tolist(), strict=True):
        states = reasoner.model.base_model(inputs_embeds=latent_inputs(reasoner.model, prompt)[None]).last_hidden_state
        likely = reasoner.model.stop_head(states[0, -MOST:-1]).squeeze(-1) > 0
        assert count == (int(likely.int().argmax()) + 1 if likely.any() else MOST)


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
    trainer.compute_loss(trainer.model, inputs)
    with_head = {name: trainer._metrics["train"][name][-1] for name in ("kl", "entropy", "ratio/sd")}
    trainer.decisions = 0
    trainer.compute_loss(trainer.model, inputs)
    assert with_head == pytest.approx({name: trainer._metrics["train"][name][-1] for name in with_head}, rel=1e-5)
    assert with_head["kl"] > 1e-3


def test_later_inner_steps_start_from_the_decisions_as_drawn(make, problems, tmp_path):
    trainer = make_trainer(stopping(make), problems, tmp_path, reward=mixed_reward, num_iterations=2)
    inputs = rollouts(trainer)
    assert torch.allclose(inputs["old_stop_logps"], inputs["stop_logps"], atol=1e-5) and inputs["stop_logps"].any()
    assert trainer._metrics["train"]["rollout/replay_gap"][-1] < 1e-4
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs)
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] == 0
    with torch.no_grad():
        trainer.model.stop_head.bias.add_(3.0)  # the tokens stay as they were
    trainer.compute_loss(trainer.model, inputs)
    assert trainer._metrics["train"]["ratio/sd"][-1] < 1e-5
    assert trainer._metrics["train"]["clip_ratio/region_mean"][-1] > 0.05


def test_a_wrong_replay_of_decisions_is_seen():
    inputs = {"sampling_per_token_logps": torch.zeros(1, 2), "completion_mask": torch.ones(1, 2)}
    inputs["stop_logps"] = torch.tensor([[-0.5, 0.0]])
    assert replay_gap(torch.zeros(1, 2), inputs, torch.tensor([[-0.75, 0.0]])) == {"rollout/replay_gap": 0.25}


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
    def price(prompts, completions, num_latents, **columns):
        return [-sign * count for count in num_latents]

    reasoner = make(num_latents=MOST, stop_head=True)
    constant_head(reasoner, -0.5)
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


def test_prompts_take_as_many_placeholders_as_latents_were_made():
    assert shortened([[1, 9, 9, 9, 4], [2, 9, 9, 9]], [2, 3], 9) == [[1, 9, 9, 4], [2, 9, 9, 9]]


def test_a_decision_follows_each_latent_but_the_last_possible():
    batch = {
        "prompt_ids": torch.tensor([[0, 1, 9], [1, 9, 9], [9, 9, 9], [9, 9, 9]]),
        "completion_mask": torch.tensor([[1], [1], [1], [0]]),
    }
    assert stop_mask(batch, 9, 3).tolist() == [[1, 0], [1, 1], [1, 1], [0, 0]]


def test_rows_of_a_draw_with_longer_thoughts_take_their_place():
    one = {"prompt_ids": torch.tensor([[1, 9], [2, 9]]), "prompt_mask": torch.ones(2, 2), "advantages": torch.ones(2)}
    two = {
        "prompt_ids": torch.tensor([[1, 9, 9], [7, 2, 9]]),
        "prompt_mask": torch.tensor([[1.0, 1, 1], [0, 1, 1]]),
        "advantages": torch.zeros(2),
    }
    merged = replace_rows(one, two, torch.tensor([True, False]), pad_token_id=7)
    assert merged["prompt_ids"].tolist() == [[1, 9, 9], [7, 2, 9]]
    assert merged["prompt_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]


@pytest.mark.parametrize("how", [{"equal_groups": "resample"}, {"equal_groups": "drop"}, {"max_at": 2}])
def test_groups_of_thoughts_that_end_by_themselves_train(make, problems, tmp_path, how):
    trainer = make_trainer(stopping(make), problems, tmp_path, reward=cost, how=how, max_steps=3, num_iterations=2)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "rollout/replay_gap" in row]
    assert all(row["rollout/replay_gap"] < 1e-4 for row in rows)
    assert any(row["grad_norm"] > 0 for row in rows)


def test_metrics_of_thoughts_of_different_lengths_by_hand():
    latents = torch.tensor([[[3.0, 0.0], [0.0, 3.0]], [[3.0, 0.0], [0.0, 0.0]], [[0.0, 3.0], [3.0, 0.0]]])
    made, rows = torch.tensor([2, 1, 2]), torch.zeros(3, dtype=torch.long)
    drawn = Generated([[1], [2], [3]], torch.zeros(3, 1), latents, made, torch.arange(3), torch.zeros(3, 1))
    found = thought_metrics(drawn, rows, 1.0)
    assert found["latent/rms"] == pytest.approx((9 / 2) ** 0.5)  # five latents with one 3 and one 0
    assert found["rollout/num_latents"] == pytest.approx(5 / 3)
    assert found["rollout/most_latents"] == pytest.approx(2 / 3)
    # The first latents: two equal ones and an orthogonal one. The second ones: two orthogonal ones.
    assert cosine_sums(latents, rows, made).tolist() == pytest.approx([1.0, 4.0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rl.algorithm=ppo"], "rl.algorithm=ppo does not train a stop head: .* Set rl.algorithm=grpo"),
        (["rl.trainer.loss_type=bnpo"], "loss_type=bnpo does not fit latent.stop_head, whose decisions to stop are no"),
        (["rl.trainer.importance_sampling_level=sequence"], "importance_sampling_level=sequence does not fit"),
        (["rl.max_at=2", "rl.answers_per_thought=2"], "max_at with answers_per_thought=2 .* for latent.stop_head"),
        (["rl.noise=null", "rl.antithetic=true"], "Remove rl.antithetic"),
    ],
)
def test_what_does_not_fit_a_stop_head_is_refused(overrides, message):
    common = ["latent.stop_head=true", "curriculum.pad_latents=false"]
    with pytest.raises(UserError, match=message):
        check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", [*common, *overrides]))
    check_recipe(load_recipe(ROOT / "tests" / "tiny.yaml", [*common, "rl.noise=null", "rl.answers_per_thought=2"]))
