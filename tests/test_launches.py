"""Real launches: two of one name, one that is killed or terminated, and one that goes on in another way."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from filelock import SoftFileLock
from processes import LAUNCH
from runs import TINY, assert_same_weights, tiny
from test_distributed import CONFIGS
from waiting import LONG

from neuralese.pipeline.run.folder import LOCK
from neuralese.pipeline.run.train import run
from neuralese.pipeline.system.lock import LockedError
from neuralese.pipeline.train.resume import CheckpointError

pytestmark = pytest.mark.launch
SHORT = ["tracking.wandb=false", "rl=null", "curriculum=null"]
TEXT = {"cwd": ROOT, "text": True}


def command(folder, wait_for, *arguments):
    train = ["train", str(TINY), f"output_dir={folder}", *SHORT, *arguments]
    return [sys.executable, "tests/paused_run.py", str(wait_for), *train]


def logged(folder):
    """(step, loss) of SFT."""
    file = folder / "tiny" / "metrics.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [(row["step"], row["loss"]) for row in rows if row["stage"] == "sft" and "loss" in row]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The output folder of the same run, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run(tiny(folder, *SHORT))
    return folder


@pytest.fixture
def paused(tmp_path):
    """A run that waits after its third step for the file `go`, its folder already there and held."""
    process = subprocess.Popen(
        command(tmp_path, tmp_path / "go"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, **TEXT
    )
    deadline = time.monotonic() + LONG
    while len(logged(tmp_path)) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_a_second_launch_is_refused_while_the_first_lives(whole, paused, tmp_path):
    for arguments in ([], ["--resume"]):
        second = subprocess.run(command(tmp_path, "die", *arguments), capture_output=True, **TEXT)
        assert second.returncode == 2 and f"already running: pid {paused.pid} on host" in second.stderr
        assert "Traceback" not in second.stderr and len(second.stderr.strip().splitlines()) == 1
    with pytest.raises(LockedError, match=f"already running: pid {paused.pid} "):
        run(tiny(tmp_path, *SHORT), resume=True)
    (tmp_path / "go").touch()
    _, err = paused.communicate(timeout=LONG)
    assert paused.returncode == 0, err
    assert logged(tmp_path) == logged(whole) and len(logged(whole)) == 4
    assert_same_weights(whole / "tiny" / "sft" / "final", tmp_path / "tiny" / "sft" / "final")
    assert not (tmp_path / "tiny" / LOCK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_was_killed_or_terminated_goes_on(whole, paused, tmp_path, sent):
    paused.send_signal(sent)
    (tmp_path / "go").touch()  # SIGTERM ends the run after the step that it is in
    _, err = paused.communicate(timeout=LONG)
    if sent == signal.SIGTERM:
        assert paused.returncode == 143 and not (tmp_path / "tiny" / LOCK).exists()
        assert "Step 3 was saved in" in err and "Traceback" not in err and len(err.strip().splitlines()) == 1
    else:  # nobody could remove the lock: its process is dead, and it is taken over
        assert paused.returncode == -9 and (tmp_path / "tiny" / LOCK).exists()
    run(tiny(tmp_path, *SHORT), resume=True)
    assert_same_weights(whole / "tiny" / "sft" / "final", tmp_path / "tiny" / "sft" / "final")
    assert logged(tmp_path) == logged(whole)


def open_together(folder):
    """What two processes of one launch print that open the run folder in a folder."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launched = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    launched |= {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": "tests"}
    both = [
        subprocess.Popen(
            [sys.executable, "tests/held_together.py", str(folder)],
            env={**launched, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **TEXT,
        )
        for rank in ("0", "1")
    ]
    return [process.communicate(timeout=LONG)[0].splitlines()[-1] for process in both]


def test_processes_of_one_launch_hold_a_folder_together(tmp_path):
    """The main one for both. Where it is refused the other one is too, and does not wait for it."""
    (tmp_path / "tiny").mkdir()
    with SoftFileLock(tmp_path / "tiny" / LOCK):
        refused = open_together(tmp_path)
    assert refused[0] == refused[1] and refused[0].startswith("LockedError")
    assert f"already running: pid {os.getpid()} on host" in refused[0]
    assert open_together(tmp_path) == ["held True", "held True"]
    assert not (tmp_path / "tiny" / LOCK).exists()


@pytest.mark.slow
@pytest.mark.parametrize("config", [case for case in CONFIGS if case.values != ("zero2",)])
def test_a_stage_of_two_processes_goes_on_with_two(tmp_path, config):
    """They hold the folder together, and are refused together where another run holds it; so is another backend."""

    def launch(*arguments):
        train = command(tmp_path, *arguments)[1:]
        return subprocess.run(
            [*LAUNCH, f"recipes/accelerate/{config}.yaml", *train], capture_output=True, timeout=LONG, **TEXT
        )

    assert launch("die").returncode != 0 and [step for step, _ in logged(tmp_path)][:2] == [1, 2]
    if config == "zero3":
        with pytest.raises(CheckpointError, match="conditions: backend: DeepSpeed ZeRO-3 then, none now. Nothing"):
            run(tiny(tmp_path, *SHORT), resume=True)
    with SoftFileLock(tmp_path / "tiny" / LOCK):
        refused = launch("go", "--resume")
    assert refused.returncode != 0 and "already running: pid" in refused.stderr
    (tmp_path / "go").touch()
    done = launch(tmp_path / "go", "--resume")
    assert done.returncode == 0, done.stderr[-3000:]
    assert [step for step, _ in logged(tmp_path)] == [1, 2, 3, 4]
    assert "not whole" not in done.stderr and not (tmp_path / "tiny" / LOCK).exists()
