"""A run that dies goes on under another number of processes, and computes what one process does."""

import json
import shutil

import pytest
from test_distributed import OPTIONS, batches, launch, processed, train_tiny

pytestmark = [pytest.mark.launch, pytest.mark.slow]
ARGUMENTS = ["tests/tiny.yaml", "curriculum.promote_at=null", *OPTIONS, *batches(4, 1), "rl.trainer.max_steps=2"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """Rows of the losses of one process that is not stopped."""
    return train_tiny("cpu", tmp_path_factory.mktemp("one"), *batches(4, 2), "rl=null")[1]


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """A run of two processes that died after the third step, with a checkpoint of the second."""
    folder = tmp_path_factory.mktemp("dead")
    with pytest.raises(AssertionError, match="exitcode"):
        launch("ddp", "tests/paused_run.py", "die", "train", *ARGUMENTS, f"output_dir={folder}", WANDB_MODE="offline")
    assert (folder / "tiny" / "sft" / "checkpoint-2").is_dir() and not (folder / "tiny" / "sft" / "final").exists()
    return folder


@pytest.mark.parametrize(("processes", "batch"), [(1, "4 x 2"), (4, "2 x 1")])
def test_the_losses_are_those_of_one_process(one_process, dead, tmp_path, processes, batch):
    shutil.copytree(dead, tmp_path, dirs_exist_ok=True)
    count = ["--num_processes", processes]
    done = launch(
        "ddp", *count, "scripts/train.py", *ARGUMENTS, f"output_dir={tmp_path}", "--resume", WANDB_MODE="offline"
    )
    assert f"Begun on 2 processes. The batches of its steps are kept: sft {processes} x {batch}" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines()]
    losses = [row for row in rows if "loss" in row and row["stage"] != "rl"]
    assert [(row["stage"], row["step"]) for row in losses] == [(row["stage"], row["step"]) for row in one_process]
    for one, other in zip(one_process, losses, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=2e-4)
        assert processed(other) == pytest.approx(processed(one))
    assert (tmp_path / "tiny" / "rl" / "final" / "model.safetensors").is_file()


def test_a_number_that_cannot_share_out_the_batch_is_refused(dead):
    with pytest.raises(AssertionError, match="2 x 4 x 1 = 8 problems an optimizer step"):
        launch("ddp", "--num_processes", 3, "scripts/train.py", *ARGUMENTS, f"output_dir={dead}", "--resume")
    assert (dead / "tiny" / "sft" / "checkpoint-2").is_dir()
