"""A W&B server that hangs, answers 500 or closes connections: no run ends or waits for long, and no number is lost."""

import json
import time

import pytest
import wandb
from fake_wandb import fake_wandb
from runs import tiny
from wandb_reader import records

from neuralese.pipeline.tracking import wandb_media
from neuralese.pipeline.tracking.tracker import Tracker

FAULTS = ["hang", "500", "close"]


@pytest.fixture
def tracker(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    (tmp_path / "tiny").mkdir()
    yield Tracker(tiny(tmp_path), tmp_path / "tiny", is_main=True)
    wandb.teardown()  # the service keeps the address of the server


def logged(path):
    """The values of `loss` in the file of a run."""
    rows = [
        record.history.item for record in records(path.read_bytes()) if record.WhichOneof("record_type") == "history"
    ]
    named = [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
    return [row["loss"] for row in named if "loss" in row]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_after_the_begin_holds_a_stage_up_once(tracker, monkeypatch, caplog, fault):
    with fake_wandb(fault) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        tracker.start("sft")
        started = time.monotonic()
        for step in range(20):
            tracker.log({"loss": float(step)}, step)
        assert time.monotonic() - started < 2
        for step in range(3):
            tracker.log_table("completions", ["a"], [[step]], step)
            tracker.log_artifact("sft", "model", [tracker.folder / "metrics.jsonl"], "base")
        tracker.finish()
        seconds = time.monotonic() - started
        tracker.start("rl")
        assert tracker.wandb_run.offline
        tracker.finish()
    assert seconds < 60  # W&B itself gives up after 20, and the end waits for 2
    (path,) = (tracker.folder / "wandb").glob("run-*/*.wandb")
    assert logged(path) == [float(step) for step in range(20)]
    assert len((tracker.folder / "metrics.jsonl").read_text().splitlines()) == 20
    assert "It gets no more tables, images and artifacts in this stage" in caplog.text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_at_the_begin_is_waited_for_once(tracker, monkeypatch, caplog, fault):
    with fake_wandb(fault, knows=()) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        started = time.monotonic()
        for stage in ("sft", "rl"):
            tracker.start(stage)
            assert tracker.wandb_run.offline
            tracker.finish()
        assert time.monotonic() - started < 30
    assert caplog.text.count("W&B could not start") == 1


def test_media_that_fail_or_wait_are_not_sent_again(monkeypatch, caplog):
    sent = []

    class Run:
        def log(self, row):
            sent.append(row)
            raise RuntimeError("no.\nmore")

    media = wandb_media.WandbMedia(Run())
    for step in range(3):
        media.table("t", ["a"], [[1]], step)
    assert len(sent) == 1 and media.gave_up
    assert caplog.text.count("W&B did not take t (no). It gets no more tables, images and artifacts") == 1

    monkeypatch.setattr(wandb_media, "PATIENCE", -1.0)
    monkeypatch.setattr(Run, "log", lambda self, row: None)
    slow = wandb_media.WandbMedia(Run())
    slow.table("t", ["a"], [[1]], 0)
    assert slow.gave_up and "W&B needed 0 s for t. It gets no more" in caplog.text
