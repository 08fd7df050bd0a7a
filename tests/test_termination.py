"""SIGTERM while a stage is trained: a checkpoint of the step it fell into, on all processes, and nothing lost."""

import os
import signal
import subprocess
import time

import psutil
import pytest
from conftest import ROOT
from processes import LAUNCH
from runs import assert_same_weights, tiny
from test_launches import command, logged
from waiting import LONG

from neuralese.data.errors import TerminatedError
from neuralese.pipeline.run.train import run
from neuralese.pipeline.system.sigterm import sigterm_noted, sigterm_raises
from neuralese.pipeline.train.callbacks import ProgressCallback
from neuralese.pipeline.train.termination import SavedAndTerminatedError

RL = ["tracking.wandb=false", "sft=null", "curriculum=null", "rl.noise=null", "rl.trainer.num_iterations=2"]


def terminated(monkeypatch, recipe, stage, step):
    """Runs a recipe that receives SIGTERM as a step of a stage ends; returns what it says at its end."""

    def send(self, args, state, control, **_):
        if stage in args.output_dir and state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched, sigterm_raises(), pytest.raises(SavedAndTerminatedError) as end:
        patched.setattr(ProgressCallback, "on_step_end", send)
        run(recipe)
    return str(end.value)


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def test_rl_ends_before_the_next_draw_of_rollouts(monkeypatch, tmp_path):
    """Rollouts are in no checkpoint and serve for two steps: a resume from step 1 would draw others."""
    run(tiny(tmp_path / "whole", *RL))
    recipe = tiny(tmp_path / "ended", *RL, "rl.trainer.save_steps=4")
    folder = recipe.folder / "rl"
    assert terminated(monkeypatch, recipe, "rl", 1) == f"Step 2 was saved in {folder}/checkpoint-2."
    assert checkpoints(folder) == ["checkpoint-2"]
    run(recipe, resume=True)
    assert_same_weights(tmp_path / "whole" / "tiny" / "rl" / "final", folder / "final")


@pytest.mark.parametrize("level", [1, 2])
def test_a_curriculum_goes_on_within_its_level(monkeypatch, tmp_path, level):
    options = ["tracking.wandb=false", "sft=null", "rl=null", "curriculum.trainer.save_steps=50"]
    run(tiny(tmp_path / "whole", *options))
    recipe = tiny(tmp_path / "ended", *options)
    terminated(monkeypatch, recipe, f"level-{level}", 3)
    assert checkpoints(recipe.folder / "curriculum" / f"level-{level}") == ["checkpoint-3"]
    run(recipe, resume=True)
    assert_same_weights(tmp_path / "whole/tiny/curriculum/final", recipe.folder / "curriculum" / "final")


def test_after_its_last_step_a_stage_is_finished_and_the_next_one_not_begun(monkeypatch, tmp_path):
    recipe = tiny(tmp_path, "tracking.wandb=false", "curriculum=null", "rl.noise=null")
    assert terminated(monkeypatch, recipe, "sft", 4) == f"{recipe.folder}/sft/final was saved."
    assert (recipe.folder / "sft" / "final").is_dir() and not checkpoints(recipe.folder / "sft")
    assert not (recipe.folder / "rl").exists()


def test_a_second_sigterm_does_not_break_off_what_the_first_one_ends():
    with sigterm_raises():
        with pytest.raises(SavedAndTerminatedError), sigterm_noted() as received:
            assert not received()
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
                assert received()
            raise SavedAndTerminatedError
        signal.raise_signal(signal.SIGTERM)
    with sigterm_raises():
        with sigterm_noted():
            pass
        with pytest.raises(TerminatedError):
            signal.raise_signal(signal.SIGTERM)


def test_a_sigterm_that_the_block_did_not_look_at_ends_what_follows():
    with sigterm_raises(), pytest.raises(TerminatedError), sigterm_noted():
        signal.raise_signal(signal.SIGTERM)


@pytest.fixture
def launch():
    """Starts a run on two processes; those that a failed test leaves are killed."""
    started = []

    def launch(folder, go, *arguments):
        paused = command(folder, go, *arguments)[1:]
        start = [*LAUNCH, "recipes/accelerate/ddp.yaml", *paused]
        started.append(subprocess.Popen(start, cwd=ROOT, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield launch
    for launcher in started:
        if launcher.poll() is None:
            for process in [*psutil.Process(launcher.pid).children(recursive=True), launcher]:
                process.kill()
            launcher.communicate()


@pytest.mark.launch
@pytest.mark.slow
def test_a_sigterm_to_one_process_of_two_ends_both_at_one_step(launch, tmp_path):
    go = tmp_path / "go"
    launcher = launch(tmp_path, go)
    deadline = time.monotonic() + LONG
    while len(logged(tmp_path)) < 2 and launcher.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(logged(tmp_path)) >= 2, launcher.poll()
    workers = psutil.Process(launcher.pid).children()
    next(worker for worker in workers if worker.environ().get("RANK") == "1").terminate()
    go.touch()
    _, said = launcher.communicate(timeout=LONG)
    folder = tmp_path / "tiny" / "sft"
    assert launcher.returncode == 1 and said.count(f"Step 3 was saved in {folder}/checkpoint-3.") == 1
    assert "exitcode  : 143" in said and "exitcode  : -" not in said  # torchrun's account: none was killed
    assert not (tmp_path / "tiny" / "running.lock").exists()
    assert len(list((folder / "checkpoint-3").glob("rng_state_*.pth"))) == 2
    for where, options in ((tmp_path, ["--resume"]), (tmp_path / "whole", [])):
        process = launch(where, go, *options)
        _, said = process.communicate(timeout=LONG)
        assert process.returncode == 0, said
    assert [step for step, _ in logged(tmp_path)] == [1, 2, 3, 4] and logged(tmp_path) == logged(tmp_path / "whole")
    assert_same_weights(tmp_path / "whole" / "tiny" / "sft" / "final", folder / "final")
