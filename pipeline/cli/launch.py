"""`neuralese launch`: submits a run to Slurm."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from ...data.errors import UserError, suggest
from .terminal import Overrides, home

CONFIGS = ("ddp", "zero2", "zero3")


class SubmitError(UserError):
    """A job that cannot be submitted as asked."""


def launch(
    recipe: Annotated[Path, typer.Argument(help="Recipe file.", callback=home)],
    overrides: Overrides = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit to Slurm, the one scheduler that is known.")] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes.")] = 1,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a node, each with a process; 0: one process on CPUs.")] = 1,
    cpus: Annotated[int, typer.Option(min=1, help="CPUs of a node.")] = 8,
    time: Annotated[str, typer.Option(help="Time limit, as sbatch takes it. Then the job goes on anew.")] = "24:00:00",
    config: Annotated[str, typer.Option(help="ddp, zero2 or zero3, of recipes/accelerate.")] = "ddp",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the script; submit nothing.")] = False,
) -> None:
    """Submit a run to Slurm, which goes on after its time limit by itself. The recipe is read first."""
    from ..recipe.load import load_recipe

    if not slurm:
        raise SubmitError(
            "neuralese launch knows one scheduler: add --slurm. On this machine run accelerate launch --config_file "
            f"recipes/accelerate/ddp.yaml scripts/train.py {recipe}."
        )
    if config not in CONFIGS:
        raise SubmitError(f"--config {config}: there are {', '.join(CONFIGS)}.{suggest(config, CONFIGS)}")
    loaded = load_recipe(recipe, overrides or [])
    package = Path(str(files("neuralese.recipes")))
    script = filled(
        (package / "slurm" / "train.sbatch").read_text(encoding="utf-8"),
        {
            "job-name": loaded.name,
            "nodes": str(nodes),
            "gpus-per-node": str(gpus) if gpus else None,
            "cpus-per-task": str(cpus),
            "time": time,
        },
        {
            "RECIPE": shlex.quote(str(recipe)),
            "OVERRIDES": f"({shlex.join(overrides or [])})",
            "ACCELERATE": shlex.quote(str(package / "accelerate" / f"{config}.yaml")),
            "export PYTHON": shlex.quote(sys.executable),
        },
    )
    typer.echo(script if dry_run else submit(script), nl=not dry_run)


def filled(template: str, options: Mapping[str, str | None], variables: Mapping[str, str]) -> str:
    """The script with other options of sbatch and other variables.

    Args:
        options: Values by name; None leaves the option out.
        variables: Values in shell syntax by what stands before the `=`.
    """
    script = template
    for name, value in options.items():
        line = "" if value is None else f"#SBATCH --{name}={shlex.quote(value)}\n"
        script = _with_line(script, f"#SBATCH --{name}=", line)
    for name, value in variables.items():
        script = _with_line(script, f"{name}=", f"{name}={value}\n")
    return script


def _with_line(script: str, begin: str, line: str) -> str:
    """The script with another line in place of the one that begins so."""
    changed, count = re.subn(rf"^{re.escape(begin)}.*\n", lambda _: line, script, flags=re.MULTILINE)
    assert count == 1, begin
    return changed


def submit(script: str) -> str:
    """Hands a script to sbatch; returns what that says.

    Raises:
        SubmitError: There is no sbatch, or it refuses the job.
    """
    if shutil.which("sbatch") is None:
        raise SubmitError(
            "There is no sbatch here, so nothing was submitted. Run this on a node from which jobs are submitted, or "
            "add --dry-run, which prints the script."
        )
    done = subprocess.run(["sbatch"], input=script, capture_output=True, text=True)  # noqa: S607
    if done.returncode != 0:
        raise SubmitError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip()
