"""A run that dies goes on under another number of processes, and computes what one process does."""

import json
import shutil

import pytest
from processes import OPTIONS, batches, launch, needs_compiler, processed

pytestmark = [pytest.mark.launch, pytest.mark.slow]
ARGUMENTS = ["tests/tiny.yaml", "curriculum.promote_at=null", *OPTIONS, *batches(4, 1), "rl.trainer.max_steps=2"]
SFT_ALONE = ["rl=null", "curriculum=null", "controls={}"]


def die(config, folder, *overrides):
    """A run of two processes that dies after the third step, with a checkpoint of the second."""
    arguments = ["tests/paused_run.py", "die", "train", *ARGUMENTS, f"output_dir={folder}", *overrides]
    with pytest.raises(AssertionError, match="exitcode"):
        launch(config, *arguments, WANDB_MODE="offline")
    assert (folder / "tiny" / "sft" / "checkpoint-2").is_dir() and not (folder / "tiny" / "sft" / "final").exists()


def go_on(config, processes, folder, *overrides):
    """What the launch that goes on prints, and its rows of losses, before RL."""
    arguments = ["scripts/train.py", *ARGUMENTS, f"output_dir={folder}", *overrides, "--resume"]
    done = launch(config, "--num_processes", processes, *arguments, WANDB_MODE="offline")
    return done.stdout + done.stderr, losses_of(folder)


def losses_of(folder):
    rows = [json.loads(line) for line in (folder / "tiny" / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row and row["stage"] != "rl"]


def assert_same_losses(expected, losses):
    assert [(row["stage"], row["step"]) for row in losses] == [(row["stage"], row["step"]) for row in expected]
    for one, other in zip(expected, losses, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=2e-5)
        assert processed(other) == pytest.approx(processed(one))


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dead")
    die("ddp", folder)
    return folder


@pytest.mark.parametrize(("processes", "batch"), [(1, "4 x 2"), (4, "2 x 1")])
def test_the_losses_are_those_of_one_process(one_process, dead, tmp_path, processes, batch):
    shutil.copytree(dead, tmp_path, dirs_exist_ok=True)
    said, losses = go_on("ddp", processes, tmp_path)
    assert f"Begun on 2 processes. The batches of its steps are kept: sft {processes} x {batch}" in said
    assert_same_losses(one_process[1], losses)
    assert (tmp_path / "tiny" / "rl" / "final" / "model.safetensors").is_file()


@pytest.fixture(scope="module")
def sft_of_one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sft")
    launch(
        "cpu",
        "scripts/train.py",
        *ARGUMENTS,
        *SFT_ALONE,
        "sft.trainer.gradient_accumulation_steps=2",
        f"output_dir={folder}",
        WANDB_MODE="offline",
    )
    return losses_of(folder)


@needs_compiler
@pytest.mark.parametrize(("config", "processes"), [("zero2", 1), ("zero3", 4)])
def test_parts_of_deepspeed_are_merged(sft_of_one_process, tmp_path, config, processes):
    """Losses after a resume that lost a moment of Adam, or counted its steps twice, differ by more than 1e-4."""
    die(config, tmp_path, *SFT_ALONE)
    said, losses = go_on(config, processes, tmp_path, *SFT_ALONE)
    assert "checkpoint-2/global_step2 was written by another number of processes" in said
    assert_same_losses(sft_of_one_process, losses)


def test_a_number_that_cannot_share_out_the_batch_is_refused(dead):
    with pytest.raises(AssertionError, match="2 x 4 x 1 = 8 problems an optimizer step"):
        go_on("ddp", 3, dead)
    assert (dead / "tiny" / "sft" / "checkpoint-2").is_dir()
