"""RL with a stop head: draws and replays of its decisions, how they lie in a batch, metrics, and what is refused."""

import pytest
import torch
from conftest import ROOT
from reference import latent_inputs, logits_of, stop_decisions
from test_grpo import make_trainer

from neuralese.data.errors import UserError
from neuralese.pipeline.latent import parse_noise
from neuralese.pipeline.latent.geometry import cosine_sums
from neuralese.pipeline.latent.sampling.answers import Generated, SamplingParams
from neuralese.pipeline.latent.sampling.generate import generate
from neuralese.pipeline.latent.stopping import StopDraws
from neuralese.pipeline.latent.thoughts import Thought, suppress
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.rl.actions import shortened, stop_mask
from neuralese.pipeline.train.rl.groups import replace_rows
from neuralese.pipeline.train.rl.metrics import replay_metrics, thought_metrics

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


def priced(make, sign):
    """A reasoner whose head knows nothing yet, and a reward that is -sign for each latent."""

    def price(prompts, completions, num_latents, **columns):
        return [-sign * count for count in num_latents]

    reasoner = make(num_latents=MOST, stop_head=True)
    constant_head(reasoner, -0.5)
    return reasoner, price


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


def test_a_wrong_replay_of_decisions_is_seen():
    inputs = {"sampling_per_token_logps": torch.zeros(1, 2), "completion_mask": torch.ones(1, 2)}
    inputs["stop_logps"] = torch.tensor([[-0.5, 0.0]])
    found = replay_metrics(torch.zeros(1, 2), inputs, torch.tensor([[-0.75, 0.0]]))
    assert found["rollout/replay_gap"] == 0.25


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
