"""Metrics of rollouts by hand, and each alarm on a log that deserves it."""

import logging
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_grpo import make_trainer, rollouts, watched
from test_ppo import make_ppo
from transformers import TrainerControl, TrainerState

from neuralese.pipeline.latent.geometry import cosine_sums
from neuralese.pipeline.latent.sampling.answers import Generated
from neuralese.pipeline.train import timed_trainer
from neuralese.pipeline.train.rl.alarms import CUT, FEW, PATIENCE, AlarmCallback, all_alarms
from neuralese.pipeline.train.rl.call_state import Work
from neuralese.pipeline.train.rl.logps import answers_of
from neuralese.pipeline.train.rl.measured import MeasuredTrainer
from neuralese.pipeline.train.rl.metrics import replay_metrics, reward_metrics, spread_metrics, thought_metrics


def drawn(latents, answers):
    count = torch.full((len(latents),), latents.size(1))
    return Generated(answers, torch.zeros(len(latents), 1), latents, count, torch.arange(len(latents)))


def test_thought_metrics_by_hand():
    """Two questions with two rollouts: orthogonal latents in the first, equal ones in the second."""
    latents = torch.tensor([[[2.0, 0.0]], [[0.0, 2.0]], [[2.0, 0.0]], [[2.0, 0.0]]])
    found = thought_metrics(drawn(latents, [[1], [1], [1], [2]]), torch.tensor([0, 0, 1, 1]), 0.5)
    assert found["rollout/distinct"] == 0.75  # the first question's answers are equal
    assert found["latent/rms"] == pytest.approx(2**0.5 / 0.5)
    assert cosine_sums(latents, torch.tensor([0, 0, 1, 1])).tolist() == pytest.approx([2.0, 4.0])  # 0, 0, 1, 1
    assert cosine_sums(latents[:2], torch.tensor([0, 1])).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    rank = spread_metrics(latents)["latent/effective_rank"]
    assert rank == pytest.approx(1.0, abs=1e-4)  # centred, they lie on a line
    assert spread_metrics(torch.eye(4)[:, None])["latent/effective_rank"] == pytest.approx(3)
    assert spread_metrics(None) == spread_metrics(torch.zeros(2, 0, 4)) == {}
    assert "latent/rms" not in thought_metrics(drawn(torch.zeros(2, 0, 4), [[1], [1]]), torch.arange(2), 1.0)
    broken = thought_metrics(drawn(torch.full((2, 1, 4), torch.nan), [[1], [1]]), torch.arange(2), 1.0)
    assert math.isnan(broken["latent/rms"])
    assert math.isnan(spread_metrics(torch.full((2, 1, 4), torch.nan))["latent/effective_rank"])


def test_reward_metrics_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    scored = torch.ones_like(rewards, dtype=torch.bool)
    scored[0, :2] = False
    expected = {"group/best": 1.0, "group/mean": 0.625, "group/mixed": 0.5, "group/unscored": 0.25}
    assert reward_metrics(rewards, scored, 1) == expected
    found = reward_metrics(rewards, scored, 2)
    assert found["group/within_thoughts"] == pytest.approx(0.125)  # one of four thoughts, variance 1/2
    assert found["group/between_thoughts"] == pytest.approx(0.0625 - 0.125 / 2)  # means 0.5, 0; 1, 1


def test_between_thoughts_is_zero_where_thoughts_do_not_matter():
    rewards = (torch.rand(4000, 16) < 0.4).float()
    scored = torch.ones_like(rewards, dtype=torch.bool)
    assert reward_metrics(rewards, scored, 4)["group/between_thoughts"] == pytest.approx(0.0, abs=0.005)
    matters = (torch.rand(4000, 4, 1) < 0.4).float().expand(4000, 4, 4).flatten(1)
    assert reward_metrics(matters, scored, 4)["group/between_thoughts"] == pytest.approx(0.24, abs=0.01)


def test_the_kl_of_sampler_and_trainer_by_hand():
    sampled = torch.tensor([[-1.0, -2.0, -9.0], [-0.5, 0.0, 0.0]])
    trainer = torch.tensor([[-1.2, -1.6, 5.0], [-0.5, 7.0, 7.0]])  # differences 0.2, -0.4, 0 where the mask is 1
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    inputs = {"sampling_per_token_logps": sampled, "completion_mask": mask}
    found = replay_metrics(trainer, inputs)
    assert found == pytest.approx(
        {"rollout/replay_gap": 0.4, "rollout/kl_k1": -0.2 / 3, "rollout/kl_k2": 0.2 / 6}, abs=1e-6
    )
    none = replay_metrics(trainer, inputs | {"completion_mask": torch.zeros_like(mask)})
    assert none == {"rollout/replay_gap": 0.0, "rollout/kl_k1": 0.0, "rollout/kl_k2": 0.0}


def test_k1_and_k2_estimate_the_kl_of_two_close_policies():
    """Over tokens that the sampler draws their means are near sum_v p(v) (log p(v) - log q(v))."""
    logits = torch.randn(50, dtype=torch.float64)
    p, q = logits.log_softmax(0), (logits + 0.2 * torch.randn(50, dtype=torch.float64)).log_softmax(0)
    drawn = torch.multinomial(p.exp(), 400_000, replacement=True)[None]
    inputs = {"sampling_per_token_logps": p[drawn], "completion_mask": torch.ones_like(drawn)}
    found, true = replay_metrics(q[drawn], inputs), (p.exp() * (p - q)).sum().item()
    assert 0.01 < true < 0.04
    assert found["rollout/kl_k1"] == pytest.approx(true, abs=4 * (p - q)[drawn].std().item() / 400_000**0.5)
    assert found["rollout/kl_k2"] == pytest.approx(true, rel=0.15)  # k2 is biased by what is cubic in the difference


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_the_kl_is_that_of_the_rollouts_and_shows_another_trainer(reasoner, problems, tmp_path, algorithm):
    """Near 0 under the same weights; under others the mean over answer tokens, by hand."""
    make = make_trainer if algorithm == "grpo" else make_ppo
    trainer = make(reasoner, problems, tmp_path)
    inputs = rollouts(trainer)
    trainer.current_gradient_accumulation_steps = 1
    trainer.compute_loss(trainer.model, inputs)
    logged = watched(trainer)
    assert abs(logged["rollout/kl_k1"]) < 1e-5 and 0 <= logged["rollout/kl_k2"] < 1e-8
    with torch.no_grad():
        trainer.model.transformer.wpe.weight.mul_(1.3)
        with trainer.working(Work(inputs)):
            logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers_of(inputs))
    difference = (inputs["sampling_per_token_logps"] - logps)[inputs["completion_mask"].bool()]
    found = replay_metrics(logps, inputs)
    assert found["rollout/kl_k1"] == pytest.approx(difference.mean().item(), abs=1e-6)
    assert found["rollout/kl_k2"] == pytest.approx(difference.pow(2).mean().item() / 2, rel=1e-5) and (
        found["rollout/kl_k2"] > 1e-4
    )


def test_k1_and_k2_show_what_bfloat16_rounds(make, problems, tmp_path):
    """Rollouts drawn in bfloat16 and recomputed in float32, where other roundings are on every processor."""
    reasoner = make(num_latents=3)
    reasoner.model.set_latent_config(compute_dtype="bfloat16")
    trainer = make_trainer(reasoner, problems, tmp_path)
    inputs = rollouts(trainer)
    found = {}
    for dtype in ("bfloat16", "float32"):
        reasoner.model.set_latent_config(compute_dtype=dtype)
        with torch.no_grad(), trainer.working(Work(inputs)):
            logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, *answers_of(inputs))
        found[dtype] = replay_metrics(logps, inputs)
    exact = found["float32"]
    assert 1e-7 < exact["rollout/kl_k2"] < 0.01 and found["bfloat16"]["rollout/kl_k2"] < 0.01
    assert 0 < abs(exact["rollout/kl_k1"]) <= (2 * exact["rollout/kl_k2"]) ** 0.5  # |mean| <= root mean square
    assert exact["rollout/replay_gap"] ** 2 / 2 >= exact["rollout/kl_k2"]


@pytest.mark.parametrize("options", [{}, {"num_iterations": 2}], ids=["on-policy", "two inner steps"])
def test_metrics_are_logged(reasoner, problems, tmp_path, options):
    trainer = make_trainer(
        reasoner,
        problems,
        tmp_path,
        how={"answers_per_thought": 2},
        **{"max_steps": 2, "learning_rate": 0.05, **options},
    )
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    names = {
        "rollout/distinct", "latent/rms", "latent/cosine", "latent/effective_rank", "latent/gradient_1",
        "latent/gradient_3", "group/best", "group/mixed", "group/within_thoughts", "group/between_thoughts", "ratio/sd",
        "rollout/replay_gap", "rollout/kl_k1", "rollout/kl_k2", "group/unscored", CUT,
    }  # fmt: skip
    assert names <= rows[0].keys() and "latent/gradient_4" not in rows[0]
    assert rows[0]["rollout/replay_gap"] < 1e-4 and rows[0]["latent/gradient_1"] > 0
    assert rows[0]["ratio/sd"] == pytest.approx(0.0, abs=1e-5)
    assert (rows[1]["ratio/sd"] > 1e-3) == bool(options)


def test_a_log_takes_one_collective(reasoner, problems, tmp_path, monkeypatch):
    """Besides TRL's own: what we watch in two steps of four micro-batches is gathered once."""
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4, "logging_steps": 2}
    trainer = make_trainer(reasoner, problems, tmp_path, **options)
    gathered, callers, original = [], [], timed_trainer.gather
    monkeypatch.setattr(timed_trainer, "gather", lambda *given: gathered.append(original(*given)) or gathered[-1])
    for name in ("reduce", "gather"):
        theirs = getattr(trainer.accelerator, name)

        def called(*given, theirs=theirs, **options):
            callers.append(sys._getframe(1).f_code.co_filename)
            return theirs(*given, **options)

        monkeypatch.setattr(trainer.accelerator, name, called)
    trainer.train()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert [Path(file).name for file in callers if "site-packages" not in file] == ["watched.py"] and len(callers) > 10
    (numbers,) = gathered
    assert numbers["count", "ratio/sd"] == [8.0] and numbers["count", "latent/rms"] == [2.0]
    assert numbers["count", "latent/gradient_2"] == [32.0] and numbers["count", "latent/effective_rank"] == [1.0]
    assert row["latent/gradient_2"] == pytest.approx(numbers["total", "latent/gradient_2"][0] / 32)


HEALTHY = {
    "loss": 0.1, "grad_norm": 1.0, "group/mixed": 0.5, "group/mean": 0.4, "group/best": 0.8, "latent/cosine": 0.9,
    "group/between_thoughts": 0.1, "latent/rms": 1.0, "ratio/sd": 0.1, "kl": 0.1, "rollout/replay_gap": 1e-5,
    "group/unscored": 0.5, "reward": 0.4, CUT: 0.9,
}  # fmt: skip
STEADY = [HEALTHY] * (2 * PATIENCE)
ILL = {
    "nan": [{"loss": math.nan, "kl": None, "rollout/replay_gap": None, "latent/cosine": None, "ratio/sd": None}],
    "unscored": [{"group/unscored": 1.0, "reward": None}],  # TRL logs the mean of nothing as None
    "cut_answers": [{CUT: 1.0}] * FEW,
    "equal_groups": [{"group/mixed": 0.0}] * PATIENCE,
    "thoughts_collapsed": [{"latent/cosine": 0.99995}] * PATIENCE,
    "thoughts_without_effect": [{"group/between_thoughts": -0.01}] * PATIENCE,
    "narrowing": [{"group/mean": 0.5, "group/best": 0.7}] * PATIENCE,
    "norm_drift": [{"latent/rms": 5.0}],
    "illegible": [{"thought/legibility": 0.8}, {"thought/legibility": 0.4}],
    "latent_unread": [{"thought/least_read": 0.15}, {"thought/least_read": 0.78}, {"thought/least_read": 0.06}],
    "ratio": [{"ratio/sd": 11.0}],
    "kl": [{"kl": 11.0}],
    "replay": [{"rollout/replay_gap": 0.5}],
}


def heard(callback, logs):
    control = TrainerControl()
    for row in logs:
        callback.on_log(None, TrainerState(global_step=7), control, logs=row)
    return control


@pytest.mark.parametrize("name", ILL)
@pytest.mark.parametrize("action", ["warn", "stop"])
def test_each_alarm_is_raised_once_and_by_its_cause_alone(caplog, name, action):
    callback = AlarmCallback(action)
    with caplog.at_level(logging.WARNING):
        assert not heard(callback, STEADY).should_training_stop and not caplog.text
        ill = [HEALTHY | row for row in ILL[name]]
        soon = 5 if name == "narrowing" else len(ill) - 1  # that one compares means
        assert not heard(callback, ill[:soon]).should_training_stop
        assert heard(callback, [*ill[soon:], *ill]).should_training_stop == (action == "stop")
    assert callback.raised == [name]
    assert len(caplog.records) == 1 and f"Alarm {name} at RL step 7: " in caplog.text and "{" not in caplog.text


@pytest.mark.parametrize(
    ("dtype", "gap", "alarm"), [("float32", 0.15, True), ("bfloat16", 0.15, False), ("bfloat16", 1.5, True)]
)
def test_the_replay_may_differ_by_what_rounding_explains(caplog, dtype, gap, alarm):
    callback = AlarmCallback("warn", dtype)
    with caplog.at_level(logging.WARNING):
        heard(callback, [HEALTHY | {"rollout/replay_gap": gap}])
    assert callback.raised == (["replay"] if alarm else [])
    assert (f"rounding explains in {dtype} (model.dtype)" in caplog.text) == alarm
    assert "bf16=" not in caplog.text


def test_every_alarm_is_tested_and_absent_metrics_raise_none():
    assert ILL.keys() == all_alarms().keys()
    callback = AlarmCallback("stop")
    assert not heard(callback, [{"loss": 1.0}] * 50).should_training_stop
    assert not callback.raised


def test_a_resumed_run_remembers_what_it_saw():
    """The drift from the first value, what has lasted, and what it was warned of."""
    history = [HEALTHY, *[HEALTHY | {"group/mixed": 0.0, "kl": 20.0}] * (PATIENCE - 1)]
    callback = AlarmCallback("warn")
    callback.on_train_begin(None, TrainerState(log_history=history), TrainerControl())
    assert callback.raised == ["kl"]
    heard(callback, [HEALTHY | {"group/mixed": 0.0, "latent/rms": 5.0}])
    assert callback.raised == ["kl", "equal_groups", "norm_drift"]


@pytest.mark.parametrize(
    ("step", "accumulation", "steps_per_generation", "iterations", "expected"),
    [(0, 1, 1, 1, 0), (3, 1, 1, 1, 96), (3, 2, 4, 1, 64), (4, 2, 4, 2, 32), (5, 2, 4, 2, 64)],
)
def test_rollouts_are_counted_once_however_often_they_are_learned_from(
    step, accumulation, steps_per_generation, iterations, expected
):
    """32 rollouts a draw."""
    trainer = object.__new__(MeasuredTrainer)
    trainer.state = SimpleNamespace(global_step=step)
    trainer.args = SimpleNamespace(
        gradient_accumulation_steps=accumulation,
        steps_per_generation=steps_per_generation,
        num_iterations=iterations,
        generation_batch_size=32,
    )
    assert trainer._rollouts() == expected
