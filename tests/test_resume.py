"""Runs that were killed go on where they were."""

import json
import shutil

import pytest
import torch
from checkpoint_files import cut
from runs import assert_same_weights, tiny
from transformers import Trainer

from neuralese.pipeline.run import results as results_module
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.training_data import DATA, keep_training_data
from neuralese.pipeline.train import callbacks, hand_over, resume
from neuralese.pipeline.train.curriculum import stage


def trained(folder):
    """What the stages logged while they trained, without times."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = ("stage", "step", "curriculum_level", "loss", "accuracy", "reward", "entropy")
    return [{key: row.get(key) for key in kept} for row in rows if row["stage"] in ("sft", "curriculum", "rl")]


@pytest.mark.parametrize("stage", ["sft", "curriculum", "rl"])
def test_a_killed_run_resumes_to_the_same_weights(finished, tmp_path, monkeypatch, stage):
    """Killed in the middle of a stage, after a checkpoint: the resumed run ends where the whole one did."""
    folder, _ = finished
    recipe = tiny(tmp_path, "tracking.wandb=false")

    class KilledError(Exception):
        pass

    def killer(self, args, state, control, **kwargs):
        if stage in args.output_dir and state.global_step == 3:
            raise KilledError

    monkeypatch.setattr(callbacks.ProgressCallback, "on_log", killer)  # step 3 is in metrics.jsonl already
    with pytest.raises(KilledError):
        run(recipe)
    monkeypatch.undo()
    assert list((tmp_path / "tiny" / stage).rglob("checkpoint-2"))
    torch.manual_seed(99)
    run(recipe, resume=True)
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")
    # What was logged between the checkpoint and the kill stands there once.
    whole, resumed = trained(folder), trained(tmp_path / "tiny")
    assert [row for row in resumed if row["loss"] is not None] == [row for row in whole if row["loss"] is not None]
    assert [row for row in resumed if row["accuracy"] is not None] == [
        row for row in whole if row["accuracy"] is not None
    ]


def test_rl_that_uses_its_rollouts_twice_resumes_to_the_same_weights(tmp_path, monkeypatch):
    """Checkpoints lie between two draws of rollouts, which are in no checkpoint."""
    options = ["tracking.wandb=false", "sft=null", "curriculum=null", "rl.noise=null", "rl.trainer.num_iterations=2"]
    run(tiny(tmp_path / "whole", *options))

    def die_at_three(self, args, state, control, **kwargs):
        assert state.global_step < 3, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_three)
    with pytest.raises(AssertionError, match="killed"):
        run(tiny(tmp_path / "killed", *options))
    monkeypatch.undo()
    run(tiny(tmp_path / "killed", *options), resume=True)
    assert_same_weights(tmp_path / "whole" / "tiny" / "rl" / "final", tmp_path / "killed" / "tiny" / "rl" / "final")


def test_finished_stages_of_other_data_are_told(finished, tmp_path, caplog):
    """An earlier version held out other problems, which are trained on now and measured on then, or the reverse."""
    folder, _ = finished
    copy = tmp_path / "tiny"
    shutil.copytree(folder, copy)
    recorded = (copy / DATA).read_text()
    keep_training_data(copy, recorded)
    assert not caplog.messages and recorded.startswith("184 problems (")
    keep_training_data(copy, "3 problems (ab)")
    assert f"was trained on {recorded}, and its data give 3 problems (ab) now" in caplog.text
    (copy / DATA).unlink()
    keep_training_data(copy, recorded)
    assert "trained on problems that nobody recorded (an earlier version)" in caplog.text
    assert not (copy / DATA).exists()


def test_a_kill_right_after_a_level_was_finished_resumes(finished, tmp_path, monkeypatch):
    """Killed between the renaming of a level's `final` and the start of the next level."""
    folder, _ = finished
    recipe = tiny(tmp_path, "tracking.wandb=false")
    original = stage.train_visit

    def die_after(*arguments):
        original(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "train_visit", die_after)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    monkeypatch.undo()
    run(recipe, resume=True)
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")


def test_torn_files_of_a_killed_run_do_not_stop_a_resume(finished, tmp_path, monkeypatch):
    """Half a checkpoint, half a line of metrics: the run goes on from the checkpoint before."""
    folder, _ = finished
    recipe = tiny(tmp_path, "tracking.wandb=false", "sft.trainer.save_steps=1", "sft.trainer.save_total_limit=3")

    def die_at_three(self, args, state, control, **kwargs):
        assert state.global_step < 3, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_three)
    with pytest.raises(AssertionError, match="killed"):
        run(recipe)
    monkeypatch.undo()
    sft = tmp_path / "tiny" / "sft"
    (sft / "checkpoint-2" / "trainer_state.json").write_text('{"global_')
    with open(tmp_path / "tiny" / "metrics.jsonl", "a") as metrics:
        metrics.write('{"stage": "sft", "st')
    assert resume.last_whole_checkpoint(sft) == sft / "checkpoint-1"
    run(recipe, resume=True)
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")
    assert all(json.loads(line) for line in (tmp_path / "tiny" / "metrics.jsonl").read_text().splitlines())


def test_no_checkpoint_is_left_at_the_last_step(tmp_path, monkeypatch):
    """Resuming from one would train past the end, and forget that the level was promoted."""

    def die(trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(hand_over, "release", die)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(tmp_path, "tracking.wandb=false"))
    assert [path.name for path in (tmp_path / "tiny" / "sft").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("stage", "name"), [("sft", "optimizer.pt"), ("curriculum", "model.safetensors"), ("rl", "rng_state.pth")]
)
def test_a_torn_newest_checkpoint_costs_one_interval(finished, tmp_path, monkeypatch, caplog, stage, name):
    """By default there is one before it, and from there the run ends where the whole one did."""
    folder, _ = finished
    recipe = tiny(tmp_path, "tracking.wandb=false", f"{stage}.trainer.save_steps=1")

    def die_at_four(self, args, state, control, **kwargs):
        assert stage not in args.output_dir or state.global_step < 4, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_four)
    with pytest.raises(AssertionError, match="killed"):
        run(recipe)
    monkeypatch.undo()
    left = sorted((tmp_path / "tiny" / stage).rglob("checkpoint-*"))
    assert [path.name for path in left] == ["checkpoint-2", "checkpoint-3"]
    cut(left[1] / name, 0.9)
    run(recipe, resume=True)
    assert f"{left[1]} is not whole ({name}:" in caplog.text and "goes on from checkpoint-2" in caplog.text
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")


def test_an_interrupt_while_a_checkpoint_is_written_costs_one_interval(finished, tmp_path, monkeypatch):
    folder, _ = finished
    recipe = tiny(tmp_path, "tracking.wandb=false", "sft.trainer.save_steps=1")
    original, calls = Trainer._save_rng_state, []

    def interrupted_at_three(self, output_dir):
        calls.append(output_dir)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(self, output_dir)

    monkeypatch.setattr(Trainer, "_save_rng_state", interrupted_at_three)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    monkeypatch.undo()
    assert (tmp_path / "tiny" / "sft" / "checkpoint-3").is_dir()
    assert resume.last_whole_checkpoint(tmp_path / "tiny" / "sft").name == "checkpoint-2"
    run(recipe, resume=True)
    assert_same_weights(folder / "rl" / "final", tmp_path / "tiny" / "rl" / "final")


def test_an_interrupt_while_results_are_measured_keeps_what_there_is(finished, tmp_path, monkeypatch):
    _, rows = finished
    recipe = tiny(tmp_path, "tracking.wandb=false")
    original = results_module.evaluate_checkpoint

    def interrupted_at_rl(recipe, checkpoint, stage, *rest):
        if stage == "rl":
            raise KeyboardInterrupt
        return original(recipe, checkpoint, stage, *rest)

    monkeypatch.setattr(results_module, "evaluate_checkpoint", interrupted_at_rl)
    with pytest.raises(KeyboardInterrupt):
        run(recipe)
    measured = []
    monkeypatch.setattr(
        results_module, "evaluate_checkpoint", lambda recipe, checkpoint, stage, *rest: (
            measured.append(stage) or original(recipe, checkpoint, stage, *rest)
        )
    )  # fmt: skip
    assert run(recipe, resume=True) == [row for row in rows if row.stage in ("sft", "curriculum", "rl")]
    assert measured == ["rl"]
