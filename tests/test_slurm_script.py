"""`neuralese launch --slurm`: the script that is printed or submitted, and what is refused before."""

import itertools
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from runs import TINY
from test_cli import assert_one_paragraph, neuralese

TEMPLATE = (ROOT / "recipes" / "slurm" / "train.sbatch").read_text()
ODD = ['output_dir=/tmp/it\'s a "$HOME" `x` \\ $(exit 3)', "sft.trainer={max_steps: 7}", "name=b"]
PRINT_COMMAND = 'srun() { printf "%s\\0" "$@"; }; scontrol() { echo "NodeAddr=10.0.0.1 x"; }; '


def printed(capsys, *arguments):
    code, script, _ = neuralese(capsys, "launch", TINY, *arguments, "--slurm", "--dry-run")
    assert code == 0
    return script


def options_of(script):
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", script, flags=re.MULTILINE))


def command_of(script, **variables):
    """The arguments that srun gets in a job, up to the ones that `variables` of Slurm decide."""
    slurm = {"SLURM_JOB_NODELIST": "n", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "31", "SLURM_CPUS_PER_TASK": "4"}
    told = subprocess.run(
        ["bash", "-c", PRINT_COMMAND + script], env={"PATH": "/usr/bin:/bin", **slurm, **variables}, capture_output=True
    )
    assert told.returncode == 0, told.stderr
    return told.stdout.decode().split("\0")[:-1]


def test_the_printed_script_is_the_template_with_what_was_asked(capsys):
    script = printed(
        capsys, *ODD, "--nodes", 3, "--gpus", 4, "--cpus", 9, "--time", "2-12", "--config", "zero3"
    )  # fmt: skip
    changed = [(old, new) for old, new in zip(TEMPLATE.splitlines(), script.splitlines(), strict=True) if old != new]
    assert [new.partition("=")[0] for _, new in changed] == [
        "#SBATCH --job-name", "#SBATCH --nodes", "#SBATCH --gpus-per-node", "#SBATCH --cpus-per-task", "#SBATCH --time",
        "RECIPE", "OVERRIDES", "ACCELERATE", "export PYTHON",
    ]  # fmt: skip
    options = options_of(script)
    asked = {"job-name": "b", "nodes": "3", "gpus-per-node": "4", "cpus-per-task": "9", "time": "2-12"}
    assert {key: options[key] for key in asked} == asked
    assert "gpus-per-node" not in options_of(printed(capsys, "--gpus", 0))


def test_overrides_reach_the_run_as_they_were_given(capsys):
    words = command_of(printed(capsys, *ODD))
    train = words.index("train")
    assert words[train:] == ["train", str(TINY), *ODD, "--resume"]
    assert words[train - 1] == "neuralese.pipeline.cli" and sys.executable in printed(capsys)


@pytest.mark.parametrize(("gpus", "processes"), [("8", "16"), (None, "2")])
def test_processes_and_where_they_meet_are_those_of_the_job(capsys, gpus, processes):
    words = command_of(printed(capsys, "--config", "zero2"), **({"SLURM_GPUS_ON_NODE": gpus} if gpus else {}))
    given = dict(itertools.pairwise(words))
    assert given["--num_machines"] == "2" and given["--num_processes"] == processes
    assert given["--main_process_ip"] == "10.0.0.1" and given["--main_process_port"] == "20031"
    assert given["--config_file"].endswith("/recipes/accelerate/zero2.yaml")
    assert "--cpus-per-task=4" in words


def test_the_run_has_time_to_save_before_its_limit():
    before = re.search(r"--signal=B:USR1@(\d+)", TEMPLATE)
    saving = re.search(r"^SAVING=(\d+)", TEMPLATE, flags=re.MULTILINE)
    assert int(before[1]) >= int(saving[1]) + 30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--slurm", "sft.trainr=1"], "did you mean 'trainer'"),
        (["--slurm", "--config", "zero4"], "--config zero4: there are ddp, zero2, zero3. Did you mean 'zero3'?"),
        (["--dry-run"], "add --slurm"),
        (["--slurm"], "There is no sbatch here, so nothing was submitted."),
    ],
)
def test_what_cannot_be_submitted_is_refused(capsys, monkeypatch, arguments, message):
    monkeypatch.setenv("PATH", "/nowhere")
    assert_one_paragraph(neuralese(capsys, "launch", TINY, *arguments), message)


@pytest.mark.parametrize("is_refused", [False, True])
def test_sbatch_gets_the_script(capsys, monkeypatch, tmp_path, is_refused):
    end = "echo 'Invalid account' >&2; exit 1" if is_refused else "echo 'Submitted batch job 31'"
    (tmp_path / "sbatch").write_text(f"#!/bin/sh\ncat > {tmp_path}/script\n{end}\n")
    (tmp_path / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    result = neuralese(capsys, "launch", TINY, *ODD, "--slurm")
    if is_refused:
        assert_one_paragraph(result, "sbatch refuses the job: Invalid account")
    else:
        assert result[:2] == (0, "Submitted batch job 31\n")
    assert (tmp_path / "script").read_text() == printed(capsys, *ODD)
