"""Time, throughput and memory of a step: by hand, on a clock of our own, and in the rows of a run."""

import json
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from batches import ROWS, batch
from runs import tiny
from test_grpo import make_trainer
from torch.utils.flop_counter import FlopCounterMode

from neuralese.pipeline.run.train import run
from neuralese.pipeline.train import clock as clock_module
from neuralese.pipeline.train import sft, timed_trainer
from neuralese.pipeline.train.callbacks import ProgressCallback
from neuralese.pipeline.train.clock import REST, Clock, ClockCallback, readings
from neuralese.pipeline.train.rl.logps import Answers
from neuralese.pipeline.train.rl.measured import replay_counts
from neuralese.pipeline.train.timed_trainer import token_counts
from neuralese.pipeline.train.watched import Watched, gather, means

CPU = torch.device("cpu")


class Time:
    """A clock that moves when it is told to."""

    now = 100.0

    def perf_counter(self):
        return self.now


class Event:
    """An event of a GPU that reaches it at the time of `Time`, in milliseconds."""

    waited: ClassVar[list] = []

    def __init__(self, time):
        self.at = time.now

    def elapsed_time(self, other):
        assert Event.waited  # the last event was waited for, so that all are complete
        return 1000 * (other.at - self.at)

    def synchronize(self):
        Event.waited.append(self)


def alone(numbers):
    """The numbers of the only process."""
    return {key: [float(value)] for key, value in numbers.items()}


def two_steps(clock, time):
    """Two steps of 10 s, with parts inside one another."""
    for _ in range(2):
        with clock.part("replay"):
            time.now += 1
            with clock.part(REST):
                time.now += 2
                with clock.part("rollout"):
                    time.now += 3
                time.now += 0.5
            with clock.part("replay"):
                time.now += 0.5
        clock.enter("optimizer")
        time.now += 1
        clock.leave()
        time.now += 2
        clock.steps += 1


@pytest.fixture
def time(monkeypatch):
    time = Time()
    monkeypatch.setattr(clock_module, "time", time)
    return time


@pytest.mark.parametrize("gpu", [False, True])
def test_what_is_inside_another_part_is_not_counted_twice(time, monkeypatch, gpu):
    clock = Clock(CPU)
    if gpu:
        Event.waited = []
        monkeypatch.setattr(clock, "_is_cuda", True)
        monkeypatch.setattr(clock, "_now", lambda: Event(time))
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**30)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    two_steps(clock, time)
    found = readings(alone(clock.take()), None)
    assert found.pop("memory/peak_gib") == 1.0 if gpu else found.pop("memory/peak_gib") > 0.01
    assert found == pytest.approx({"time/step": 10, "time/replay": 1.5, "time/rollout": 3, "time/optimizer": 1})
    assert len(Event.waited) == (1 if gpu else 0)  # once a log
    assert clock.take() == {}  # nothing twice, and nothing without steps


def test_throughput_is_of_all_processes_and_leaves_evaluation_out(time):
    clock = Clock(CPU)
    for _ in range(4):
        clock.count(tokens=torch.tensor(30), latents=6.0, flops=2e12)
        with clock.part("eval"):
            time.now += 1
        time.now += 4
        clock.steps += 1
    one = clock.take()
    other = {**one, ("processed", "tokens"): 50.0, ("seconds", "step"): 7.0, ("memory", "peak"): 3 * 2**30}
    found = readings({key: [float(one[key]), float(other[key])] for key in one}, 1e12)
    # A step takes 6 s on average, of which 1 is evaluation.
    assert found["time/step"] == 6 and found["time/eval"] == 1
    assert found["throughput/tokens_per_second"] == pytest.approx((30 + 50) / 5)
    assert found["throughput/latents_per_second"] == pytest.approx(12 / 5)
    assert found["throughput/mfu"] == pytest.approx(2 * 2e12 / 5 / (2 * 1e12))
    assert found["memory/peak_gib"] == 3.0 and "throughput/rollouts_per_second" not in found
    assert "throughput/mfu" not in readings(alone(one), None)


def test_time_before_training_begins_counts_nowhere(time):
    clock = Clock(CPU)
    callback = ClockCallback(clock)
    with clock.part("eval"):  # the held-out problems before the first step
        time.now += 50
    callback.on_train_begin(None, None, None)
    callback.on_pre_optimizer_step(None, None, None)
    time.now += 2
    callback.on_optimizer_step(None, None, None)
    callback.on_step_end(None, None, None)
    found = readings(alone(clock.take()), None)
    assert found["time/step"] == found["time/optimizer"] == 2 and "time/eval" not in found


def test_a_part_that_fails_is_closed(time):
    clock = Clock(CPU)
    with pytest.raises(ValueError, match="bad"), clock.part("replay"):
        time.now += 1
        raise ValueError("bad")
    time.now += 1
    clock.steps += 1
    found = readings(alone(clock.take()), None)
    assert (found["time/replay"], found["time/step"]) == (1, 2)


class Accelerator:
    """Of the first of two processes. The other one has what `other` says."""

    device = CPU
    calls = 0

    def __init__(self, other):
        self.other = other

    def gather(self, vector):
        self.calls += 1
        return torch.cat([vector, torch.tensor(self.other, dtype=vector.dtype)])


def test_means_are_over_the_observations_of_all_processes_by_one_collective():
    watched = Watched()
    watched.add("b", torch.tensor(3.0, requires_grad=True), torch.tensor(2))
    watched.add("b", 1.0)
    watched.add("a", 5.0)
    watched.add("nothing", torch.tensor(0.0), 0)
    watched.add_all({"nan": torch.tensor(torch.nan)})
    # In the order of the keys: the counts of a, b, nan and nothing, then their totals.
    accelerator = Accelerator([1.0, 5.0, 1.0, 0.0, 7.0, 12.0, 1.0, 0.0])
    found = means(gather(accelerator, watched.take()))
    assert found == {"a": 6.0, "b": (3 + 1 + 12) / (2 + 1 + 5), "nan": None} and accelerator.calls == 1
    assert watched.take() == {} and gather(accelerator, {}) == {} and accelerator.calls == 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_tokens_and_latents_of_a_ragged_batch(reasoner, side):
    inputs = batch(reasoner, side)
    tokens, latents = token_counts(inputs["input_ids"], inputs["attention_mask"], reasoner.config.token_ids[1])
    cells = [cell for row in ROWS for cell in row]
    assert latents == cells.count("L") == 10 and tokens == len(cells) - 10


def test_a_replay_counts_a_question_once_for_rollouts_side_by_side():
    L, P = 1, 0
    ids = torch.tensor(
        [
            [P, 5, 6, L, L, 9, 2],
            [P, 5, 6, L, L, 9, P],  # the same question
            [4, 5, 6, L, L, 8, 2],
            [P, 5, 6, L, L, 7, 2],  # again, but not beside it
        ]
    )
    mask = torch.tensor([[0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0], [1] * 7, [0, 1, 1, 1, 1, 1, 1]])
    tokens, latents, scored = replay_counts(Answers(ids, mask, 2), L)
    assert (tokens, latents, scored) == (2 + 3 + 2 + 7, 8, 7)
    # Without latents what comes before the answer is shared.
    tokens, latents, scored = replay_counts(Answers(ids.masked_fill(ids == L, 3), mask, 2), L)
    assert (tokens, latents, scored) == (4 + 5 + 4 + 7, 0, 7)


@pytest.mark.parametrize(
    ("noise", "answers", "thoughts"), [("gaussian:0.4", 1, 16), ("gaussian:0.4", 2, 8), (None, 1, 4)]
)
def test_an_rl_step_counts_what_it_drew(reasoner, problems, tmp_path, noise, answers, thoughts):
    trainer = make_trainer(reasoner, problems, tmp_path, noise=noise, how={"answers_per_thought": answers})
    trainer.train()
    for row in [row for row in trainer.state.log_history if "loss" in row]:
        counted = {
            kind: row[f"throughput/{kind}_per_second"] * row["time/step"] for kind in ("rollouts", "tokens", "latents")
        }
        lengths = row["completions/mean_length"]
        assert counted == pytest.approx({"rollouts": 16, "tokens": 16 * lengths, "latents": 3 * thoughts}, rel=1e-4)


def test_mfu_counts_the_products_of_an_rl_step(reasoner, problems, tmp_path, monkeypatch):
    """Torch counts those of padding, too, and of answers that wait for longer ones."""
    monkeypatch.setattr(timed_trainer, "device_peak", lambda *_: 1e12)
    trainer = make_trainer(reasoner, problems, tmp_path, max_steps=1, num_iterations=2)
    with FlopCounterMode(display=False) as counter:
        trainer.train()
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    counts = counter.get_flop_counts()["Global"].items()
    products = sum(value for name, value in counts if str(name) in ("aten.mm", "aten.addmm"))
    assert 0.7 < row["throughput/mfu"] * 1e12 * row["time/step"] / products <= 1


STAGES = {
    "sft": {"forward_backward", "optimizer"},
    "curriculum": {"forward_backward", "optimizer"},
    "rl": {"rollout", "reward", "replay", "optimizer"},
}


def test_every_stage_logs_what_its_steps_cost(finished):
    folder, _ = finished
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for stage, parts in STAGES.items():
        ours = [row for row in rows if row["stage"] == stage and "loss" in row]
        assert len(ours) >= 4
        for row in ours:
            times = {name: value for name, value in row.items() if name.startswith("time/")}
            step = times.pop("time/step")
            assert {f"time/{part}" for part in parts} == times.keys() - {"time/eval"}
            assert all(value > 0 for value in times.values()) and sum(times.values()) <= step * (1 + 1e-6)
            assert row["throughput/tokens_per_second"] > 0 and 0.05 < row["memory/peak_gib"] < 64
            assert ("throughput/latents_per_second" in row) == (stage != "sft")
            assert "throughput/mfu" not in row  # the peak of a CPU is not known
        measured = ["time/eval" in row for row in ours]
        assert any(measured) == (stage == "curriculum") and not all(measured)
    assert not any("time/step" in row for row in rows if "loss" not in row)


def test_tokens_of_sft_are_those_that_trl_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(sft, "forget_metric", lambda *_: None)  # the run is never resumed
    folder = tmp_path / "tiny"
    run(tiny(tmp_path, "tracking.report_to=none", "curriculum=null", "rl=null"))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    ours = [row for row in rows if row["stage"] == "sft" and "loss" in row]
    before = 0.0
    for row in ours:
        assert row["throughput/tokens_per_second"] * row["time/step"] == pytest.approx(row["num_tokens"] - before)
        before = row["num_tokens"]


def test_the_progress_bar_shows_a_rate():
    callback = ProgressCallback("rl")
    shown = []
    callback.task, callback.progress = 0, SimpleNamespace(update=lambda task, note: shown.append(note))
    state = SimpleNamespace(is_world_process_zero=True)
    rates = {"throughput/tokens_per_second": 1234.5, "throughput/rollouts_per_second": 56.7}
    callback.on_log(None, state, None, logs={"loss": 0.5, **rates})
    callback.on_log(None, state, None, logs={"loss": 0.5, "throughput/tokens_per_second": 1234.5})
    assert shown == ["loss 0.500  57 rollouts/s", "loss 0.500  1234 tokens/s"]
