"""Sweeps: which cells run, what fails, what a kill leaves, and the rows."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import sweep
from sweep_cells import current_commit, read_row, state_of
from sweep_file import SweepError, choose
from sweep_repository import (
    SWEEP,
    behave,
    cells,
    edit_recipe,
    make_repository,
    run_sweep,
    start_sweep,
    states,
    timeless_row,
    write_sweep,
)
from waiting import LONG


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return make_repository(tmp_path, monkeypatch)


def events(root, name):
    return (root / "outputs" / "sweeps" / f"demo-{name}.events").read_text().split()


def test_only_missing_cells_run_and_leave_their_row(repository):
    assert set(states().values()) == {"missing"}
    assert run_sweep(repository, only=["short"]) == 0
    assert list(states().values()) == ["missing", "missing", "done", "done"]
    assert run_sweep(repository) == 0
    assert set(states().values()) == {"done"}
    row = read_row(cells()["short-seed1"])
    assert row.command == (
        "neuralese train recipes/tiny.yaml rl=null tracking.wandb=false sft.trainer.max_steps=2 name=demo-short-seed1 "
        "seed=1 output_dir=outputs/sweeps"
    )
    assert (row.threads, row.resumed, row.stopped, row.seconds) == (1, False, False, {"sft": 2.0, "curriculum": 7.0})
    assert row.results[0]["value"] == 0.75 and row.recipe["sft"]["trainer"]["max_steps"] == 2
    (repository / "docs" / "results" / "demo" / "latent-seed1.json").unlink()
    shutil.rmtree(repository / "outputs" / "sweeps" / "demo-latent-seed1")
    assert run_sweep(repository) == 0
    assert [len(events(repository, name)) for name in cells()] == [2, 4, 2, 2]


def test_a_failing_cell_is_reported_and_the_others_go_on(repository, capsys):
    behave(repository, **{"latent-seed0": "fail", "short-seed0": "stop"})
    assert run_sweep(repository, jobs=1) == 1
    shown = capsys.readouterr().out
    assert "FAILED   demo-latent-seed0 with exit code 1" in shown and "nothing works" in shown
    assert list(states().values()) == ["failed", "done", "done", "done"]
    assert read_row(cells()["short-seed0"]).stopped
    text = (repository / "docs" / "results" / "demo.md").read_text()
    assert "0.750 [0.500, 1.000] one seed (missing, 0.750)" in text and "(0.500*, 0.750)" in text
    assert "`*` a run whose latent curriculum stopped below its threshold" in text
    behave(repository)
    assert run_sweep(repository) == 0
    assert list(states().values()) == ["done"] * 4
    assert (
        events(repository, "latent-seed0") == ["begin", "begin", "end"] and len(events(repository, "short-seed0")) == 2
    )


@pytest.mark.parametrize("count", range(1, 7))
def test_shards_cover_all_cells_exactly_once(repository, count):
    every = list(cells().values())
    shares = [choose(every, [], f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(cell.recipe.name for share in shares for cell in share) == sorted(c.recipe.name for c in every)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_shard_renders_nothing(repository):
    (repository / "docs" / "results" / "demo.md").write_text("No markers.")
    assert run_sweep(repository, shard="2/4") == 0
    assert list(states().values()) == ["missing", "done", "missing", "missing"]
    assert (repository / "docs" / "results" / "demo.md").read_text() == "No markers."


def test_a_changed_recipe_makes_cells_stale(repository, capsys):
    assert run_sweep(repository) == 0
    edit_recipe(repository, "eval_every: 4", "eval_every: 2")
    assert state_of(cells()["latent-seed0"]) == ("stale", "the recipe differs in curriculum")
    assert run_sweep(repository) == 0
    assert "STALE    docs/results/demo/latent-seed0.json" in capsys.readouterr().out
    assert "(0.500†, 0.750†)" in (repository / "docs" / "results" / "demo.md").read_text()
    assert len(events(repository, "latent-seed0")) == 2
    assert run_sweep(repository, stale=True, only=["latent"]) == 0
    assert list(states().values()) == ["done", "done", "stale", "stale"]
    assert (repository / "outputs" / "sweeps" / "demo-latent-seed0.stale" / "recipe.yaml").is_file()
    assert not read_row(cells()["latent-seed0"]).resumed


def test_a_changed_recipe_of_an_unfinished_run_is_named_before_anything_runs(repository):
    behave(repository, **{"short-seed1": "fail"})
    assert run_sweep(repository, only=["short"]) == 1
    edit_recipe(repository, "eval_every: 4", "eval_every: 2")
    with pytest.raises(SweepError, match=r"demo-short-seed1 holds an unfinished run.*With --stale it is moved to"):
        run_sweep(repository)
    assert states()["latent-seed0"] == "missing"
    behave(repository)
    assert run_sweep(repository, stale=True) == 0
    assert set(states().values()) == {"done"} and not read_row(cells()["short-seed1"]).resumed


def test_a_run_that_is_measured_in_another_way_is_not_trained_again(repository):
    assert run_sweep(repository) == 0
    edit_recipe(repository, "bootstrap: 50", "bootstrap: 60")
    assert set(states().values()) == {"stale"}
    assert run_sweep(repository, stale=True) == 0
    assert set(states().values()) == {"done"}
    assert not list((repository / "outputs" / "sweeps").glob("*.stale"))


def test_a_new_recipe_key_makes_no_row_stale_and_a_lost_one_does(repository):
    assert run_sweep(repository) == 0
    file = repository / "docs" / "results" / "demo" / "latent-seed0.json"
    values = json.loads(file.read_text())
    del values["recipe"]["curriculum"]["promote_at"]  # as if the row were older than the key, whose default it has
    file.write_text(json.dumps(values))
    assert states()["latent-seed0"] == "done"
    values["recipe"]["curriculum"]["forgotten"] = 1
    file.write_text(json.dumps(values))
    assert states()["latent-seed0"] == "stale"


def wait_for(condition, seconds=LONG):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_the_runs(repository, number):
    behave(repository, **{"latent-seed0": 60.0})
    process = start_sweep(repository, "--only", "latent", "--jobs", "1")
    wait_for((repository / "outputs" / "sweeps" / "demo-latent-seed0.events").is_file)
    runs = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130 and "Interrupted" in output and "Traceback" not in output
    assert runs and not any(run.is_running() for run in runs)
    assert states()["latent-seed0"] == "half-done" and states()["latent-seed1"] == "missing"


def test_an_interrupted_sweep_loses_no_step(repository):
    """With nothing faked: the run saves the step it is in, long before its next checkpoint."""
    train = [sys.executable, "-m", "neuralese.pipeline.cli", "train"]
    arm = {"recipe": "recipes/tiny.yaml", "overrides": ["sft.trainer.save_steps=100000"]}
    write_sweep(repository, {**SWEEP, "seeds": [0], "arms": {"latent": arm}})
    edit_recipe(repository, "sft:\n  trainer: {max_steps: 4,", "sft:\n  trainer: {max_steps: 100000,")
    process = start_sweep(repository, "--shard", "1/1", program=train)
    metrics = repository / "outputs" / "sweeps" / "demo-latent-seed0" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and metrics.read_text().count("\n") > 2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == 130 and "Runs end after the step they are in" in output
    (saved,) = metrics.parent.glob("sft/checkpoint-*")
    logged = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert int(saved.name.partition("-")[2]) == logged[-1]


def test_a_run_that_outlives_its_sweep_is_waited_for(repository):
    behave(repository, **{"latent-seed0": "waits"})
    process = start_sweep(repository, "--only", "latent", "--jobs", "1")
    wait_for((repository / "outputs" / "sweeps" / "demo-latent-seed0.events").is_file)
    process.kill()
    process.wait()
    assert states()["latent-seed0"] == "running"
    again = start_sweep(repository, "--only", "latent", "--shard", "1/1")
    with again.stdout:
        assert any("waits    demo-latent-seed0" in line for line in again.stdout)
        (repository / "go").touch()
        again.stdout.read()  # to the end of the sweep
    assert again.wait(LONG) == 0
    assert events(repository, "latent-seed0") == ["begin", "end", "begin", "end"]  # never two at once


def test_a_killed_sweep_goes_on_to_the_same_row(repository, tmp_path_factory):
    """The sweep and its run are killed in the middle of training, with nothing faked; another is left alone."""
    train = [sys.executable, "-m", "neuralese.pipeline.cli", "train"]
    write_sweep(repository, {**SWEEP, "seeds": [0], "arms": {"latent": {"recipe": "recipes/tiny.yaml"}}})
    edit_recipe(repository, "sft:\n  trainer: {max_steps: 4,", "sft:\n  trainer: {max_steps: 120,")
    other = shutil.copytree(repository, tmp_path_factory.mktemp("whole") / "repository")
    whole = start_sweep(other, "--shard", "1/1", program=train)
    killed = start_sweep(repository, "--shard", "1/1", program=train)
    wait_for(lambda: list(repository.glob("outputs/sweeps/*/sft/checkpoint-*/trainer_state.json")))
    for victim in [psutil.Process(killed.pid), *psutil.Process(killed.pid).children(recursive=True)]:
        victim.kill()
    killed.wait()
    assert not list(repository.glob("outputs/sweeps/*/sft/final"))
    wait_for(lambda: states() == {"latent-seed0": "half-done"})
    again = start_sweep(repository, "--shard", "1/1", program=train)
    for process in (again, whole):
        output, _ = process.communicate(timeout=LONG)
        assert process.returncode == 0, output
    rows, timed = zip(*(timeless_row(root, "latent-seed0") for root in (other, repository)), strict=True)
    assert [row.pop("resumed") for row in rows] == [False, True]
    assert list(timed) == [{"sft", "curriculum", "evaluate"}] * 2
    assert rows[0] == rows[1]
    assert list(rows[0]["reports"]) == ["curriculum/level-1", "curriculum/level-2"]


def test_a_commit_is_marked_when_more_than_results_has_changed(repository):
    def git(*arguments):
        identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        subprocess.run(["git", *identity, *arguments], check=True, capture_output=True)

    assert current_commit() == "unknown"
    git("init")
    git("add", "--all")
    git("commit", "-m", "all")
    clean = current_commit()
    assert re.fullmatch(r"[0-9a-f]{7,}", clean)
    (repository / "docs" / "results" / "demo").mkdir()
    (repository / "docs" / "results" / "demo" / "row.json").write_text("{}")
    (repository / "docs" / "results" / "demo.md").write_text("changed")
    assert current_commit() == clean
    edit_recipe(repository, "eval_every: 4", "eval_every: 2")
    assert current_commit() == f"{clean}+"


def test_runs_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [sweep.threads_of(jobs) for jobs in (1, 3, 16)] == [8, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert sweep.threads_of(2) == 5
