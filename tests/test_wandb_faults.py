"""A W&B server that hangs, answers 500 or closes connections: no run ends or waits for long, and no number is lost."""

import json
import time
from types import SimpleNamespace

import pytest
import torch
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
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "60")
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    wandb.teardown()  # the service keeps the settings, and the server, that it was started with
    (tmp_path / "tiny").mkdir()
    yield Tracker(tiny(tmp_path), tmp_path / "tiny", is_main=True)
    wandb.teardown()


def logged(path, count, seconds=60):
    """The values of `loss` in the file of a run, into which W&B writes some seconds later."""
    deadline = time.monotonic() + seconds
    while True:
        rows = [one.history.item for one in records(path.read_bytes()) if one.WhichOneof("record_type") == "history"]
        named = [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in row} for row in rows]
        found = [row["loss"] for row in named if "loss" in row]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.1)


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
    assert logged(path, 20) == [float(step) for step in range(20)]
    assert len((tracker.folder / "metrics.jsonl").read_text().splitlines()) == 20
    assert "It gets no more tables, images and artifacts in this stage" in caplog.text


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_at_the_begin_is_waited_for_once(tracker, monkeypatch, caplog, fault):
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    with fake_wandb(fault, knows=()) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        started = time.monotonic()
        for stage in ("sft", "rl"):
            tracker.start(stage)
            assert tracker.wandb_run.offline
            tracker.finish()
        assert time.monotonic() - started < 30
    assert caplog.text.count("W&B could not start") == 1


def test_after_media_that_failed_the_next_stage_is_offline(tmp_path):
    """Also where the stage's numbers reached the server in time."""
    tracker = Tracker(tiny(tmp_path), tmp_path, is_main=True)
    for gave_up in (False, True):
        settings = SimpleNamespace(finish_timeout=60.0)
        tracker.wandb_run = SimpleNamespace(offline=False, settings=settings, finish=lambda exit_code: None)
        tracker.media = wandb_media.WandbMedia(tracker.wandb_run)
        tracker.media.gave_up = gave_up
        tracker.finish()
        assert tracker.is_offline == gave_up


class Run:
    """A W&B run whose server fails."""

    def __init__(self, error=None, link=None):
        self.error, self.link, self.sent = error, link, []

    def log(self, row):
        self.sent.append(row)
        if self.error is not None:
            raise self.error

    def use_artifact(self, name):
        if self.link is not None:
            raise self.link

    def log_artifact(self, artifact):
        self.sent.append(artifact)


def test_after_a_failure_of_the_server_no_media_are_sent(caplog):
    media = wandb_media.WandbMedia(Run(RuntimeError("no.\nmore")))
    for step in range(3):
        media.table("t", ["a"], [[1]], step)
    assert len(media.run.sent) == 1 and media.gave_up
    assert caplog.text.count("W&B did not take t (no). It gets no more tables, images and artifacts") == 1


def test_after_a_long_wait_no_media_are_sent(monkeypatch, caplog):
    monkeypatch.setattr(wandb_media, "PATIENCE", -1.0)
    media = wandb_media.WandbMedia(Run())
    media.table("t", ["a"], [[1]], 0)
    assert media.gave_up and "W&B needed 0 s for t. It gets no more" in caplog.text


def test_what_cannot_be_sent_is_left_out_alone(tmp_path, caplog):
    media = wandb_media.WandbMedia(Run())
    media.table("mixed", ["parsed"], [[3], ["x"], [[1, "y"]]], 0)  # as a reward may log them
    media.artifact("a" * 200, "model", [tmp_path], {}, None)
    media.artifact("b", "model", [tmp_path / "absent"], {}, None)
    norms = torch.full((64,), 3.0) + 2.4e-7 * torch.arange(64).remainder(2)
    media.histograms({"norms": norms}, 0)
    assert not media.gave_up
    assert [next(iter(row)) for row in media.run.sent] == ["mixed", "norms"]
    assert caplog.text.count("This stage goes on without it") == 2


def test_weights_are_sent_where_what_they_were_made_of_is_unknown(tmp_path, caplog):
    (tmp_path / "weights").write_text("1")
    media = wandb_media.WandbMedia(Run(link=wandb.errors.CommError("no such artifact")))
    media.artifact("tiny-rl", "model", [tmp_path / "weights"], {}, "tiny-curriculum")
    assert [artifact.name for artifact in media.run.sent] == ["tiny-rl"] and not media.gave_up
    assert "W&B did not take artifact tiny-curriculum (no such artifact). This stage goes on" in caplog.text
