"""What the critic of PPO expects while rollouts are drawn is what it expects of the same states in the loss."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from test_grpo import make_trainer
from test_ppo import make_ppo, random_head, rollouts
from test_stopping import mixed_reward, stopping

from neuralese.data.chain import ChainTask, generate
from neuralese.pipeline.latent.sampling.budget import Budget
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.rollouts import ROLLOUTS
from neuralese.pipeline.train.rl.settings import rl_rows

NOISE = "gaussian:0.4"
CASES = {
    "latents": ({}, NOISE),
    "no noise": ({}, None),
    "delimiters and text before the answer": ({"delimiters": True}, NOISE),
    "loops": ({"loops": 2}, NOISE),
    "jacobi sweeps": ({"jacobi_sweeps": 2}, NOISE),
    "pauses": ({"thought_source": "pause"}, None),
    "a window": ({"window": 1, "sees_question": False}, NOISE),
    "questions that noise moves": ({}, "svp_weights:0.4"),
    "a stop head": ({"stop_head": True}, NOISE),
}


def ragged(reasoner):
    """Questions of two lengths, side by side."""
    short, long = (generate(ChainTask(modulus=7, num_operations=count), 8, "train", 0) for count in (2, 3))
    mixed = [problem for pair in zip(short, long, strict=True) for problem in pair]
    return Dataset.from_list(rl_rows(mixed, reasoner.config.num_latents))


@pytest.mark.parametrize("answers", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_values_of_the_draw_are_those_of_the_loss(make, problems, tmp_path, case, answers):
    latent, noise = CASES[case]
    stops = latent.get("stop_head", False)
    reasoner = stopping(make) if stops else make(num_latents=3, **latent)
    random_head(reasoner)
    options = {"reward": mixed_reward} if stops else {}
    trainer = make_ppo(reasoner, problems, tmp_path, noise=noise, **options)
    budget = Budget(60, key=ROLLOUTS.key)
    trainer.settings = replace(trainer.settings, answers_per_thought=answers, budget=budget)
    trainer.train_dataset = ragged(reasoner)
    inputs = rollouts(trainer)
    assert not inputs["prompt_mask"].all()
    with torch.no_grad():
        _, state_values = trainer.policy_loss(trainer.model, inputs)
    found = trainer._action_values(state_values, inputs["prompt_ids"], inputs["completion_ids"].size(1))
    mask = trainer._actions(inputs).bool()
    assert mask[:, : reasoner.config.num_latents].any() and found[mask].std() > 0.1
    torch.testing.assert_close(inputs["old_values"][mask], found[mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("estimator", ["replay", "score_function"])
def test_log_probs_of_later_steps_are_those_of_the_sampler(make, problems, tmp_path, monkeypatch, estimator):
    """So nothing is replayed for them, and the importance ratio of a token is that against what drew it."""
    how = {"estimator": estimator}
    trainer = make_trainer(stopping(make), problems, tmp_path, reward=mixed_reward, how=how, num_iterations=2)
    replayed, original = [], type(trainer)._replayed_logps
    monkeypatch.setattr(
        type(trainer), "_replayed_logps", lambda self, *given: replayed.append(1) or original(self, *given)
    )
    inputs = rollouts(trainer)
    assert replayed == []
    assert torch.equal(inputs["old_per_token_logps"], inputs["sampling_per_token_logps"])
    assert torch.equal(inputs["old_stop_logps"], inputs["stop_logps"]) and inputs["stop_logps"].any()


def test_a_reference_is_still_asked(make, problems, tmp_path):
    lora = LoraConfig(target_modules=["c_attn"], r=2, modules_to_save=["value_head"])
    trainer = make_ppo(make(num_latents=3), problems, tmp_path, lora=lora, beta=0.1, num_iterations=2)
    inputs = rollouts(trainer)
    answers = inputs["completion_mask"].bool()
    gap = inputs["ref_per_token_logps"] - inputs["old_per_token_logps"]  # the reference is still the same model
    assert answers.any() and gap[answers].abs().max() < 1e-4 and inputs["ref_per_token_logps"][answers].all()


@pytest.mark.parametrize("estimator", ["replay", "score_function"])
def test_ratios_begin_at_1_where_the_sampler_rounds(make, problems, tmp_path, monkeypatch, estimator):
    """Where weights do not move, no ratio of the second inner step differs from 1, as the sampler's would."""
    draw = LatentGRPOTrainer._generate_single_turn

    def rounded(self, *given):
        tokens, logps = draw(self, *given)
        return tokens, [[logp - 0.01 for logp in row] for row in logps]

    monkeypatch.setattr(LatentGRPOTrainer, "_generate_single_turn", rounded)
    options = {"num_iterations": 2, "learning_rate": 0.0, "importance_sampling_level": "sequence", "epsilon": 1e-4}
    how = {"estimator": estimator}
    trainer = make_trainer(
        stopping(make), problems, tmp_path, reward=mixed_reward, how=how, loss_type="grpo", **options
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert rows[0]["rollout/replay_gap"] == pytest.approx(0.01, rel=0.1)
    assert [row["clip_ratio/region_mean"] for row in rows] == [0.0, 0.0]
    assert all(abs(row.get("ratio/sd", 0.0)) < 1e-5 for row in rows)


def test_the_replay_is_measured_before_the_weights_move(make, problems, tmp_path):
    """Of four steps that two draws serve, a log of each: later inner steps compare other weights."""
    trainer = make_trainer(make(num_latents=3), problems, tmp_path, num_iterations=2, max_steps=4, learning_rate=0.05)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    measured = ["rollout/replay_gap" in row for row in rows]
    assert measured == [True, False, True, False]
    assert all(row["rollout/replay_gap"] < 1e-4 for row in rows[::2])
    assert [row["ratio/sd"] > 1e-3 for row in rows] == [False, True, False, True]
