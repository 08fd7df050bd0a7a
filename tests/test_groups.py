"""How the rollouts of a group are drawn, and what becomes of groups without variance."""

import pytest
import torch
from test_grpo import G, make_trainer, rollouts

from neuralese.pipeline.train.rl import grpo as latent_grpo
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.groups import equal_groups, fill_unscored, mixed_share, replace_rows
from neuralese.pipeline.train.rl.grpo import answers_of

REWARDS = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])


def test_which_groups_are_equal():
    assert equal_groups(REWARDS).tolist() == [True, False, True]
    assert mixed_share(REWARDS) == pytest.approx(1 / 3) and mixed_share(REWARDS[:1]) == 1.0


def test_rollouts_that_no_reward_scored_are_neutral():
    scored = torch.tensor([[True, False], [True, True], [False, False]])
    rewards, _ = fill_unscored(REWARDS, scored)
    assert rewards.tolist() == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    rewards, _ = fill_unscored(torch.tensor([[4.0, 0.0, 2.0]]), torch.tensor([[True, False, True]]))
    assert rewards.tolist() == [[4.0, 3.0, 2.0]]


def test_rows_of_another_draw_take_their_place():
    one = {
        "prompt_ids": torch.tensor([[1, 2], [1, 3]]), "completion_ids": torch.tensor([[5, 6], [7, 8]]),
        "completion_mask": torch.tensor([[1, 1], [1, 1]]), "advantages": torch.tensor([0.0, 1.0]),
        "num_items_in_batch": torch.tensor(4),
    }  # fmt: skip
    two = {
        "prompt_ids": torch.tensor([[1, 2], [1, 3]]), "completion_ids": torch.tensor([[9, 9, 9], [4, 0, 0]]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]), "advantages": torch.tensor([2.0, 3.0]),
        "num_items_in_batch": torch.tensor(4),
    }  # fmt: skip
    merged = replace_rows(one, two, torch.tensor([True, False]), pad_token_id=0)
    assert merged["completion_ids"].tolist() == [[9, 9, 9], [7, 8, 0]]
    assert merged["completion_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert merged["advantages"].tolist() == [2.0, 1.0]


def counted_reward(calls):
    """Equal within every group at the first call; then it differs in the first two groups, then in all."""

    def reward(prompts, completions, **columns):
        calls.append(len(completions))
        mixed = {1: 0, 2: 2}.get(len(calls), 4)
        return [float(i % G == 0) if i // G < mixed else 1.0 for i in range(len(completions))]

    return reward


def test_resampling_draws_equal_groups_again(reasoner, problems, tmp_path, monkeypatch):
    calls = []
    trainer = make_trainer(reasoner, problems, tmp_path, reward=counted_reward(calls), how={"equal_groups": "resample"})
    seen = []
    monkeypatch.setattr(latent_grpo, "reward_metrics", lambda *given: seen.append(given) or {})
    inputs = rollouts(trainer)
    assert calls == [16, 16, 16]
    ((rewards, _, _),) = seen
    assert not equal_groups(rewards).any()
    assert (inputs["advantages"].abs() > 0).all() and len(inputs["noise_seeds"].unique()) == 16
    assert inputs["num_items_in_batch"] == inputs["completion_mask"].sum()
    # What was kept from the second draw is replayed from its own seeds.
    with trainer.working(Work(inputs)):
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers_of(inputs))
    answer = inputs["completion_mask"].bool()
    assert torch.allclose(logps[answer], inputs["sampling_per_token_logps"][answer], atol=1e-4)


def test_dropping_leaves_equal_groups_out_of_the_mean(reasoner, problems, tmp_path):
    def reward(prompts, completions, **columns):
        return [float(i == 0) for i in range(len(completions))]

    found = []
    for how in ("keep", "drop"):
        torch.manual_seed(3)
        trainer = make_trainer(reasoner, problems, tmp_path, reward=reward, how={"equal_groups": how})
        found.append(rollouts(trainer)["advantages"].sort().values)
    assert torch.allclose(found[1], 4 * found[0]) and found[0].any()  # one group of four teaches


def test_thoughts_with_several_answers_and_mirrored_noise(reasoner, problems, tmp_path, monkeypatch):
    drawn = []
    original = latent_grpo.generate
    monkeypatch.setattr(latent_grpo, "generate", lambda *a: drawn.append(original(*a)) or drawn[-1])
    trainer = make_trainer(reasoner, problems, tmp_path, how={"answers_per_thought": 2, "antithetic": True})
    trainer.train()
    seeds, latents = drawn[0].seeds.view(-1, 2), drawn[0].latents.unflatten(0, (-1, 2))
    assert torch.equal(seeds[:, 0], seeds[:, 1]) and torch.equal(latents[:, 0], latents[:, 1])
    assert torch.equal(seeds[::2], -seeds[1::2]) and not torch.equal(latents[0], latents[1])


def test_latents_are_credited_with_their_answers_against_other_thoughts(reasoner, problems, tmp_path):
    def reward(prompts, completions, **columns):
        return [[1.0, 0.0, 0.0, 0.0][i % 4] for i in range(len(completions))]

    how = {"estimator": "score_function_mean", "answers_per_thought": 2}
    inputs = rollouts(make_trainer(reasoner, problems, tmp_path, reward=reward, how=how, scale_rewards="none"))
    # The thoughts' means are 0.5 and 0: each against the other; an answer against the mean of the group, 0.25.
    pairs = {(round(a, 4), round(z, 4)) for a, (z, *_) in zip(
        inputs["advantages"].tolist(), inputs["latent_advantages"].tolist(), strict=True)}  # fmt: skip
    assert pairs == {(0.75, 0.5), (-0.25, 0.5), (-0.25, -0.5)}


def test_unscored_rollouts_have_no_advantage(reasoner, problems, tmp_path, monkeypatch):
    def reward(prompts, completions, **columns):
        return [[0.0, 1.0, None, 4.0][i % 4] for i in range(len(completions))]

    seen = []
    monkeypatch.setattr(latent_grpo, "reward_metrics", lambda *given: seen.append(given) or {})
    trainer = make_trainer(reasoner, problems, tmp_path, reward=reward, how={"max_at": 2})
    advantages = rollouts(trainer)["advantages"]
    ((_, is_scored, _),) = seen
    assert is_scored.tolist() == [[True, True, False, True]] * 4
    assert (advantages == 0).sum() == 4 and advantages.any()


def test_the_best_of_the_group_is_credited(reasoner, problems, tmp_path):
    def reward(prompts, completions, **columns):
        return [[0.0, 1.0, 1.0, 4.0][i % 4] for i in range(len(completions))]

    trainer = make_trainer(reasoner, problems, tmp_path, reward=reward, how={"max_at": 3})
    advantages = rollouts(trainer)["advantages"]
    # The best has 4 where the others have 1 at most. Another has 4 with the best among its two fellows, 2 times of 3,
    # else 1; without it the other three have 4.
    best = torch.tensor([-1.0, -1.0, -1.0, 3.0])
    assert torch.allclose(advantages.sort().values, best.repeat(4).sort().values)
