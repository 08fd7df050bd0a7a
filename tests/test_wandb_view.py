"""What a person sees who opens the project in W&B."""

import math
from types import SimpleNamespace

import pytest
from runs import tiny
from wandb_reader import read_run, records

from neuralese.pipeline.tracking.tracker import Tracker
from neuralese.pipeline.tracking.wandb_view import tags
from neuralese.pipeline.train.rl.alarms import AlarmCallback


def written(folder):
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_run(path)


@pytest.fixture
def tracker(tmp_path):
    (tmp_path / "tiny").mkdir()
    tracker = Tracker(tiny(tmp_path), tmp_path / "tiny", is_main=True)
    tracker.start("rl")
    yield tracker
    tracker.finish()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), ["chain", "gpt2", "sequential", "grpo", "replay", "gaussian:0.3"]),
        (("rl=null", "latent.loops=2"), ["chain", "gpt2", "looped"]),
        (("rl.noise=null", "latent.jacobi_sweeps=2"), ["chain", "gpt2", "jacobi", "grpo", "replay", "no noise"]),
        (
            ("rl=null", "model={name_or_path: models/smollm2}", "data.train={path: /data/my.jsonl}"),
            ["my.jsonl", "smollm2", "sequential"],
        ),
        (
            ("rl=null", "model={name_or_path: org/base}", "data.train={dataset: openai/gsm8k, name: main}"),
            ["gsm8k", "base", "sequential"],
        ),
        (("rl=null", "data.train={reasoning_gym: gsm_symbolic, size: 9}"), ["gsm_symbolic", "gpt2", "sequential"]),
    ],
)
def test_tags_say_what_runs_differ_in(tmp_path, changes, expected):
    assert tags(tiny(tmp_path, *changes)) == expected


def test_no_tag_is_longer_than_wandb_takes(tmp_path):
    long = "a" * 70
    assert f"{'a' * 64}" in tags(tiny(tmp_path, f"data.train={{path: /data/{long}.jsonl}}"))


def test_the_table_of_runs_shows_the_best_accuracy_and_the_last(tracker):
    folder = tracker.folder
    for step, accuracy in enumerate((0.2, 0.9, 0.4)):
        tracker.log({"held_out/accuracy": accuracy, "loss": 1.0 - accuracy}, step)
    tracker.finish()
    found = written(folder)
    assert found["tags"] == ["chain", "gpt2", "sequential", "grpo", "replay", "gaussian:0.3"]
    assert found["summaries"]["held_out/accuracy"] == found["summaries"]["group/mean"] == {"max", "last"}
    assert found["summaries"]["eval_loss"] == {"min", "last"}


def test_alarms_are_alerts(tracker):
    callback = AlarmCallback("warn", tracker=tracker)
    control = SimpleNamespace(should_training_stop=False, should_save=False)
    callback.on_log(None, SimpleNamespace(is_world_process_zero=True, global_step=3), control, {"loss": math.nan})
    tracker.finish()
    ((title, text),) = written(tracker.folder)["alerts"]
    assert title == "Alarm nan at RL step 3" and "loss" in text


def test_a_file_that_is_being_written_is_read_as_far_as_its_records_are_whole(tracker):
    tracker.log({"loss": 1.0}, 1)
    tracker.finish()
    (row,) = written(tracker.folder)["rows"]
    (path,) = tracker.folder.glob("wandb/offline-run-*/*.wandb")
    data = path.read_bytes()
    whole = list(records(data))
    read = [list(records(data[:end])) for end in range(len(data) - 200, len(data))]
    assert row["loss"] == 1.0 and all(found == whole[: len(found)] for found in read)
    assert len(read[0]) < len(read[-1]) < len(whole)
