"""Trackers beside W&B."""

import json
import logging
import math

import pytest
from runs import tiny

from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.tracking import other_trackers
from neuralese.pipeline.tracking.other_trackers import MissingTracker, flat
from neuralese.pipeline.tracking.tracker import Tracker


class Recorder:
    """A tracker as Accelerate has them, which fails where it is told to."""

    failing = ()

    def __init__(self, *names, **options):
        self.names, self.options, self.calls = names, options, []

    def _call(self, name, *values):
        if name in self.failing:
            raise ConnectionError(f"no answer to {name}.\nA second line.")
        self.calls.append((name, *values))

    def start(self):
        self._call("start")

    def store_init_configuration(self, values):
        self._call("config", values)

    def log(self, values, step):
        self._call("log", values, step)

    def finish(self):
        self._call("finish")


@pytest.fixture
def recorded(monkeypatch):
    """Every MLflow tracker that is made, in place of real ones."""
    made = []

    class Fake(Recorder):
        def __init__(self, *names, **options):
            super().__init__(*names, **options)
            made.append(self)

    monkeypatch.setattr(other_trackers, "MLflowTracker", Fake)
    return made


def start(tmp_path, *names):
    (tmp_path / "tiny").mkdir(exist_ok=True)
    tracker = Tracker(tiny(tmp_path, f"tracking.report_to=[{','.join(names)}]"), tmp_path / "tiny", is_main=True)
    tracker.start("rl")
    return tracker


def test_tensorboard_holds_the_finite_numbers_at_their_steps(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = start(tmp_path, "tensorboard")
    for step, loss in ((1, 2.5), (2, math.nan), (3, 1.5)):
        tracker.log({"loss": loss, "rollout/distinct": 0.5, "said": "a word"}, step)
    tracker.finish()
    found = accumulator.EventAccumulator(str(tmp_path / "tiny" / "tensorboard" / "rl")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(1, 2.5), (3, 1.5)]
    assert sorted(found.Tags()["scalars"]) == ["loss", "rollout/distinct"]
    assert not (tmp_path / "tiny" / "wandb").exists()


def test_a_stage_is_a_run_with_its_config(tmp_path, recorded):
    tracker = start(tmp_path, "mlflow")
    tracker.log({"loss": 1.0, "held_out/pass@1": 0.5}, 3)
    tracker.finish()
    (run,) = recorded
    assert run.names == ("neuralese",) and run.options["run_name"] == "tiny-rl-seed0"
    kinds = [call[0] for call in run.calls]
    assert kinds == ["start", "config", "log", "finish"] and run.calls[2] == (
        "log",
        {"loss": 1.0, "held_out/pass_1": 0.5},
        3,
    )
    assert run.calls[1][1]["rl.noise"] == "gaussian:0.3" and run.calls[1][1]["run.processes"] == 1


@pytest.mark.parametrize("moment", ["start", "config", "log", "finish"])
def test_a_tracker_that_fails_is_left_out_and_said_once(tmp_path, recorded, monkeypatch, caplog, moment):
    monkeypatch.setattr(Recorder, "failing", (moment,))
    with caplog.at_level(logging.WARNING):
        tracker = start(tmp_path, "mlflow")
        tracker.log({"loss": 1.0}, 1)
        tracker.log({"loss": 0.5}, 2)
        tracker.finish()
    said = [record.getMessage() for record in caplog.records if "mlflow" in record.getMessage()]
    assert said == [f"mlflow could not record (no answer to {moment}). This stage goes on without it."]
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [1.0, 0.5]


def test_processes_but_the_main_one_start_none(tmp_path, recorded):
    tracker = Tracker(tiny(tmp_path, "tracking.report_to=mlflow"), tmp_path, is_main=False)
    tracker.start("rl")
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    assert recorded == []


def test_a_tracker_that_is_not_installed_is_named_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(other_trackers.AVAILABLE, "trackio", lambda: False)
    with pytest.raises(MissingTracker, match="names trackio, which is not installed.*pip install trackio"):
        check_recipe(tiny(tmp_path, "tracking.report_to=trackio"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), ("wandb",)),
        (("tracking.report_to=none",), ()),
        (("tracking.report_to=[]",), ()),
        (("tracking.report_to=tensorboard",), ("tensorboard",)),
        (("tracking.report_to=[wandb,mlflow]",), ("wandb", "mlflow")),
        (("tracking.wandb=false",), ()),
        (("tracking.wandb=true",), ("wandb",)),
        (("tracking={wandb: false, report_to: [wandb, mlflow]}",), ("mlflow",)),
    ],
)
def test_names_of_trackers(changes, expected):
    assert load_recipe("tests/tiny.yaml", list(changes)).tracking.report_to == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("tracking.report_to=tensorbord", "tensorboard"),
        ("tracking.report_to=[none,wandb]", "take one of the two"),
        ("tracking.wandb=perhaps", "must be true or false"),
    ],
)
def test_wrong_names_of_trackers(change, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe("tests/tiny.yaml", [change])


def test_nested_values_are_flat():
    assert flat({"a": {"b": {"c": 1}, "d": None}, "e": [1, 2]}) == {"a.b.c": 1, "a.d": "None", "e": "[1, 2]"}
