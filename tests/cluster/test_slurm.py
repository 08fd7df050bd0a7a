"""A job under a real Slurm, cut by its time limit: it saves, is queued again, goes on, and ends with the same weights.

`make test-cluster` installs what it needs, as root on Debian, and runs it.
"""

import os
import re
import shutil
import subprocess
import sys
from functools import partial

import pytest
from conftest import ROOT
from runs import TINY, assert_same_weights
from slurm import slurm, wait_for

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or shutil.which("slurmctld") is None or shutil.which("munged") is None,
        reason="needs root and Debian's slurm-wlm and munge: make test-cluster",
    ),
]
STEPS = 300  # of SFT: at a second each longer than the time limit
OVERRIDES = [
    f"plugins=[{ROOT}/tests/cluster/slow_at_first.py]", f"sft.trainer.max_steps={STEPS}",
    "sft.trainer.save_steps=1000", "tracking.report_to=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def submit(environment, folder, minutes, *overrides, **variables):
    """Submits the tiny recipe from a folder, with spaces and quotes in its path. Returns the number of the job."""
    command = [sys.executable, "-m", "neuralese.pipeline.cli", "launch", str(TINY), f"output_dir={folder}"]
    options = ["--slurm", "--nodes", "2", "--gpus", "0", "--cpus", "1", "--time", str(minutes), "--config", "ddp"]
    done = subprocess.run(
        [*command, *OVERRIDES, *overrides, *options],
        env={**environment, "OMP_NUM_THREADS": "1", **variables},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.removeprefix("Submitted batch job "))


def shown(environment, job, key):
    """What Slurm says of a job."""
    told = subprocess.run(["scontrol", "show", "job", str(job)], env=environment, capture_output=True, text=True)
    found = re.search(rf"\b{key}=(\S+)", told.stdout)
    assert found is not None, told
    return found[1]


def has_ended(environment, job):
    return shown(environment, job, "JobState") in ("COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL")


def test_a_job_that_its_time_limit_cuts_goes_on_to_the_same_weights(cluster, tmp_path):
    folders = [tmp_path / name for name in ("whole", "cut 'in two'")]
    for folder in folders:
        folder.mkdir()
    whole = submit(cluster, folders[0], 30)
    cut = submit(cluster, folders[1], 2, SLOW_AT_FIRST="1", SBATCH_SIGNAL="B:USR1@30")
    for job, folder in zip((whole, cut), folders, strict=True):
        log = folder / f"slurm-{job}-node0.log"
        wait_for(partial(has_ended, cluster, job), 600, log)
        assert shown(cluster, job, "JobState") == "COMPLETED", log.read_text()[-4000:]
    assert shown(cluster, whole, "Restarts") == "0"
    starts = 1 + int(shown(cluster, cut, "Restarts"))  # a later start may be cut, too, in another stage
    assert starts > 1

    logs = [(folders[1] / f"slurm-{cut}-node{node}.log").read_text() for node in (0, 1)]
    assert logs[0].count("Running on 2 processes") == starts and "Running on" not in logs[1]
    saved = [re.findall(r"Step (\d+) was saved in \S.*/sft/checkpoint-\1\.", log) for log in logs]
    assert saved[0] == saved[1] and 0 < int(saved[0][0]) < STEPS
    assert re.findall(r"sft begins after step (\d+)", logs[0]) == ["0", *saved[0]]
    assert not (folders[1] / "tiny" / "running.lock").exists()
    for stage in ("sft", "curriculum", "rl"):
        assert_same_weights(*(folder / "tiny" / stage / "final" for folder in folders))


def test_a_job_that_ends_with_an_error_is_not_queued_again(cluster, tmp_path):
    job = submit(cluster, tmp_path, 30, "data.train={path: nothing.jsonl}")
    log = tmp_path / f"slurm-{job}-node0.log"
    wait_for(partial(has_ended, cluster, job), 300, log)
    assert [shown(cluster, job, key) for key in ("JobState", "Restarts")] == ["FAILED", "0"]
    assert "nothing.jsonl" in log.read_text()
