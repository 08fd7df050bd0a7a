"""The run folder: one launch at a time, gone on with by its own recipe alone, wherever it lies."""

import json
import logging
import os
import shutil
import subprocess
import sys

import pytest
from checkpoint_files import cut
from filelock import SoftFileLock
from runs import assert_same_weights, tiny

from neuralese.data.errors import UserError
from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.evaluate.report.page import write_report
from neuralese.pipeline.run.folder import LOCK, RunError, check_folder, open_folder
from neuralese.pipeline.run.recipe_changes import differences
from neuralese.pipeline.run.train import run
from neuralese.pipeline.scoring.sample_files import read_samples
from neuralese.pipeline.system import lock
from neuralese.pipeline.system.integrity import read_seconds
from neuralese.pipeline.tracking.metrics_file import mend, read_rows
from neuralese.pipeline.tracking.wandb_run import token as wandb_token
from neuralese.pipeline.train import callbacks


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of a finished run, of which nothing but the report is left to do."""
    shutil.copytree(finished[0], tmp_path / "tiny", symlinks=True)
    return tmp_path / "tiny"


@pytest.fixture
def soon(monkeypatch):
    monkeypatch.setattr(lock, "WAIT", 0.2)


def left_by_a_dead_process(file):
    code = "import os, sys; from filelock import SoftFileLock as L; lock = L(sys.argv[1]); lock.acquire(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(file)])
    assert file.is_file()


def test_a_folder_is_held_while_it_is_open(tmp_path, soon):
    recipe = tiny(tmp_path)
    with open_folder(recipe, resume=False):
        content = (tmp_path / "tiny" / LOCK).read_text().splitlines()
        assert content[0] == str(os.getpid())
        says = rf"tiny: already running: pid {os.getpid()} on host [^ ?]+ since \d{{4}}-.*delete .*{LOCK}"
        with pytest.raises(lock.LockedError, match=says), open_folder(recipe, resume=True):
            pass
    assert not (tmp_path / "tiny" / LOCK).exists()
    with pytest.raises(ValueError, match="boom"), open_folder(recipe, resume=True):
        raise ValueError("boom")
    assert not (tmp_path / "tiny" / LOCK).exists()


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path):
    (tmp_path / "tiny").mkdir()
    left_by_a_dead_process(tmp_path / "tiny" / LOCK)
    with open_folder(tiny(tmp_path), resume=False):
        assert (tmp_path / "tiny" / LOCK).read_text().splitlines()[0] == str(os.getpid())


def test_an_empty_lock_file_can_only_be_deleted(tmp_path, soon):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / LOCK).touch()
    with pytest.raises(lock.LockedError, match="whose lock file does not name it"), open_folder(tiny(tmp_path), False):
        pass
    (tmp_path / "tiny" / LOCK).unlink()
    with open_folder(tiny(tmp_path), resume=False):
        pass


def test_the_lock_of_another_host_is_respected(tmp_path, soon):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / LOCK).write_text("4242\nelsewhere\n")
    with pytest.raises(lock.LockedError, match="pid 4242 on host elsewhere since"), open_folder(tiny(tmp_path), False):
        pass
    assert (tmp_path / "tiny" / LOCK).read_text() == "4242\nelsewhere\n"


def held_as_by(monkeypatch, folder, job, restarts):
    """What a launch in a start of a Slurm job leaves if it is killed on another host."""
    monkeypatch.setenv("SLURM_JOB_ID", job)
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    folder.mkdir()
    with lock.hold(folder / LOCK, "", ""):
        left = lock.job_file_of(folder / LOCK).read_text()
    (folder / LOCK).write_text("4242\nelsewhere\n")
    lock.job_file_of(folder / LOCK).write_text(left)


@pytest.mark.parametrize(
    ("job", "restarts", "is_taken"),
    [("7", "1", True), ("7", "10", True), ("7", "0", False), ("8", "1", False), (None, None, False)],
)
def test_a_slurm_job_that_is_queued_again_takes_over_its_own_lock(monkeypatch, tmp_path, soon, job, restarts, is_taken):
    """Of the same start another launch may live, and so may one of another job."""
    held_as_by(monkeypatch, tmp_path / "tiny", "7", "0")
    monkeypatch.delenv("SLURM_JOB_ID")
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if is_taken:
        with open_folder(tiny(tmp_path), resume=True):
            assert (tmp_path / "tiny" / LOCK).read_text().splitlines()[0] == str(os.getpid())
        assert not [*(tmp_path / "tiny").glob("*lock*")]
    else:
        with pytest.raises(lock.LockedError, match="4242"), open_folder(tiny(tmp_path), resume=True):
            pass
        assert (tmp_path / "tiny" / LOCK).read_text() == "4242\nelsewhere\n"


def test_what_a_failed_start_left_is_no_run_of_others(tmp_path):
    (tmp_path / "tiny").mkdir()
    for name in ("error.log", "recipe.yaml.partial"):
        (tmp_path / "tiny" / name).touch()
    check_folder(tiny(tmp_path), resume=False)
    (tmp_path / "tiny" / "thesis.tex").touch()
    with pytest.raises(RunError, match="holds no run of ours: it has no recipe.yaml"):
        check_folder(tiny(tmp_path), resume=False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["rl.trainer.per_device_train_batch_size=4"], ["rl.trainer.per_device_train_batch_size: 8 then, 4 now"]),
        (["sft.trainer.warmup_steps=3"], ["sft.trainer.warmup_steps: unset then, 3 now"]),
        (["rl.noise=null", "seed=1"], ["seed: 0 then, 1 now", 'rl.noise: "gaussian:0.3" then, null now']),
        (["model.config.n_embd=8"], ["model.config.n_embd: 16 then, 8 now"]),
        (["rl.rewards=[{function: exact_match, weight: 2}]"], ["rl.rewards.0.weight: 1.0 then, 2.0 now"]),
        (["rl.rewards=[{function: exact_match, timeout: 9}]"], []),
        (["sft.trainer.ddp_timeout=60", "rl.trainer.ddp_timeout=60"], []),
        (["evaluate.problems=3", "name=b", "output_dir=c", "controls.pause=true", "tracking.wandb=false"], []),
    ],
)
def test_differences_are_named_by_key_and_both_values(tmp_path, changes, says):
    assert differences(tiny(tmp_path), tiny(tmp_path, *changes)) == says


def test_a_section_that_is_gone_is_one_difference(tmp_path):
    (line,) = differences(tiny(tmp_path), tiny(tmp_path, "rl=null"))
    assert line.startswith('rl: {"') and line.endswith("... then, null now") and len(line) < 90


def test_of_many_differences_some_are_named(copy, tmp_path):
    changes = [f"sft.trainer.{key}=1" for key in ("max_steps", "save_steps", "learning_rate", "warmup_steps", "seed_")]
    changes += ["seed=5", "rl.noise=null"]
    with pytest.raises(RunError, match=r"differs in seed: 0 then, 5 now; .*; and 2 more\. Nothing was changed"):
        check_folder(tiny(tmp_path, *changes), resume=True)


def test_a_recipe_that_is_the_same_is_not_written_again(copy, tmp_path, monkeypatch):
    asked = tiny(tmp_path, "controls.pause=true", "controls.no_cot=true")
    with open_folder(asked, resume=True):
        pass
    written = (copy / "recipe.yaml").stat().st_mtime_ns
    with open_folder(asked, resume=True):
        pass
    assert (copy / "recipe.yaml").stat().st_mtime_ns == written


def test_a_run_goes_on_in_another_place_under_another_name(finished, tmp_path, monkeypatch):
    """Killed in the curriculum, moved and renamed: it ends with the weights of a whole run."""
    recipe = tiny(tmp_path / "here", "tracking.wandb=false")

    def die(self, args, state, control, **kwargs):
        assert "level-2" not in args.output_dir or state.global_step < 3, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die)
    with pytest.raises(AssertionError, match="killed"):
        run(recipe)
    monkeypatch.undo()
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "here" / "tiny").rename(there / "other")
    trained = (there / "other" / "sft" / "final" / "model.safetensors").stat().st_mtime_ns
    run(tiny(there, "tracking.wandb=false", "name=other"), resume=True)
    assert (there / "other" / "sft" / "final" / "model.safetensors").stat().st_mtime_ns == trained
    assert_same_weights(finished[0] / "rl" / "final", there / "other" / "rl" / "final")


def test_a_finished_stage_that_was_deleted_is_trained_anew_alone(finished, copy, tmp_path, monkeypatch):
    """What the message of a disk fault tells the user to do."""
    cut(copy / "curriculum" / "level-2" / "final" / "model.safetensors")
    recipe = tiny(tmp_path, "tracking.wandb=false")
    with pytest.raises(RunError, match=r"curriculum/level-2/final was finished .*\(model.safetensors: SafetensorError"):
        run(recipe, resume=True)
    shutil.rmtree(copy / "curriculum" / "level-2" / "final")
    kept = (copy / "rl" / "final" / "model.safetensors").stat().st_mtime_ns
    run(recipe, resume=True)
    assert_same_weights(finished[0] / "curriculum" / "final", copy / "curriculum" / "final")
    assert (copy / "curriculum" / "final").is_symlink()
    assert (copy / "rl" / "final" / "model.safetensors").stat().st_mtime_ns == kept


def test_a_torn_report_of_a_curriculum_is_written_anew_once_deleted(copy, tmp_path):
    report = copy / "curriculum" / "report.json"
    before = report.read_text()
    report.write_text(before[:40])
    recipe = tiny(tmp_path, "tracking.wandb=false")
    with pytest.raises(UserError, match=r"curriculum/report.json is whole no more .* Delete it and .*curriculum/final"):
        run(recipe, resume=True)
    report.unlink()
    (copy / "curriculum" / "final").unlink()
    run(recipe, resume=True)
    assert report.read_text() == before


def test_results_that_cannot_be_read_are_measured_again_from_the_samples(finished, copy, tmp_path, caplog):
    (copy / "results.json").write_text('[{"stage": ')
    rows = run(tiny(tmp_path, "tracking.wandb=false", "controls.pause=true", "controls.no_cot=true"), resume=True)
    assert rows == finished[1] == read_results(copy / "results.json")
    assert "results.json is measured again" in caplog.text


def test_metrics_keep_every_line_that_is_whole(tmp_path, caplog):
    file = tmp_path / "metrics.jsonl"
    rows = [{"stage": "sft", "step": step, "loss": step / 3} for step in range(3)]
    good = [json.dumps(row).encode() + b"\n" for row in rows]
    file.write_bytes(good[0] + b"\0\0\0\n" + good[1] + b'"\xff\n5\n' + good[2] + b'{"stage": "sf')
    assert read_rows(file) == rows
    with caplog.at_level(logging.WARNING):
        mend(file)
    assert file.read_bytes() == b"".join(good) and "3 lines of" in caplog.text
    caplog.clear()
    file.write_bytes(good[0] + b'{"stage": "sf')  # what any kill leaves
    mend(file)
    assert file.read_bytes() == good[0] and not caplog.text


def test_small_files_that_cannot_be_read_cost_what_they_hold_and_no_more(tmp_path, caplog):
    assert read_seconds(tmp_path) == {}
    (tmp_path / "seconds.json").write_text('{"sft": 1')
    (tmp_path / "wandb_id").write_bytes(b"\xff\0")
    assert read_seconds(tmp_path) == {} and "How long earlier stages took is not known" in caplog.text
    token = wandb_token(tmp_path)
    assert len(token) == 8 and wandb_token(tmp_path) == token and "runs of their own" in caplog.text


def test_two_evaluations_do_not_write_one_file(copy, soon):
    from neuralese.pipeline.run.evaluate import evaluate_folder

    with (
        SoftFileLock(copy / "eval.lock"),
        pytest.raises(lock.LockedError, match="eval.json: already running.*--output"),
    ):
        evaluate_folder(copy, [], None, None)
    assert not (copy / "eval.json").exists()


def test_an_evaluation_beside_a_run_is_not_refused(copy, tmp_path):
    """What it writes is its own."""
    from neuralese.pipeline.run.evaluate import evaluate_folder

    with SoftFileLock(copy / LOCK):
        evaluate_folder(copy / "sft" / "final", ["evaluate.problems=2"], tmp_path / "beside.json", None)
    assert {row.n for row in read_results(tmp_path / "beside.json")} == {2}
    assert not (tmp_path / "beside.lock").exists()


def test_a_report_leaves_out_what_cannot_be_read(copy, caplog):
    for name in ("results.json", "eval.json", "audit.json"):
        (copy / name).write_text("[{")
    with (copy / "metrics.jsonl").open("ab") as metrics:
        metrics.write(b'\xff{"stage": "sf')
    before = (copy / "report.html").read_text()
    text = write_report(copy).read_text()
    assert "<h2>Learning curves</h2>" in before and "<h2>pass@k</h2>" in before
    assert "<h2>Learning curves</h2>" in text and "<h2>pass@k</h2>" not in text
    for name in ("results.json", "eval.json", "audit.json"):
        assert name in caplog.text


def test_samples_that_a_fault_made_unreadable_end_their_file(tmp_path):
    file = tmp_path / "greedy.jsonl"
    head = {"version": 3, "setting": {}}
    file.write_bytes(
        json.dumps(head).encode() + b'\n{"problem": 0, "texts": ["a"]}\n{"problem": 1, "texts": ["\xff"]}\n'
    )
    assert read_samples(file) == (head, {0: {"texts": ["a"]}})
