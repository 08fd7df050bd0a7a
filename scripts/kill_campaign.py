"""Kills a run of three stages at random moments, goes on each time, and compares what is left with an unbroken run.

    python scripts/kill_campaign.py [RECIPE] [--kills 50] [--per-run 3] [--processes 1] [--seed 0] [--folder FOLDER]

Every launch is killed, with all its processes and by SIGKILL, at a moment drawn uniformly over the seconds that the
unbroken run took. A run is broken a few times, since one that is gone on with soon has its stages behind it, and then
runs to its end. Runs are broken until there were enough kills. Compared are the weights of all stages (bytes),
results.json and the rows of metrics.jsonl, without what depends on the clock.
Exit code: 0 everything is equal, 1 something differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

CLOCK = ("time", "throughput/", "memory/", "train_runtime", "train_samples", "train_steps", "step_time", "total_flos")


@dataclass
class Campaign:
    """What is launched, and where its runs lie."""

    recipe: Path
    folder: Path
    processes: int

    def launch(self, name: str) -> subprocess.Popen[bytes]:
        """Starts a run in a process group of its own, or goes on with it."""
        head = [sys.executable, "-m", "neuralese.pipeline.cli"]
        if self.processes > 1:
            options = ["--config_file", "recipes/accelerate/ddp.yaml", "--num_processes", str(self.processes)]
            launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet"]
            head = [*launch, *options, "-m", "neuralese.pipeline.cli"]
        command = [*head, "train", str(self.recipe), f"output_dir={self.folder}", f"name={name}"]
        options = ["tracking.report_to=none", "--resume"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(
                [*command, *options], stdout=log, stderr=log, start_new_session=True, env=environment
            )

    def finish(self, name: str) -> float:
        """Runs to the end; returns the seconds it took."""
        started = time.monotonic()
        self._check(name, self.launch(name).wait())
        return time.monotonic() - started

    def kill_after(self, name: str, seconds: float) -> bool:
        """Launches a run and kills it after some seconds. Returns False where it had ended by itself."""
        process = self.launch(name)
        try:
            self._check(name, process.wait(timeout=seconds))
        except subprocess.TimeoutExpired:
            # Workers of a launcher may be in groups of their own.
            workers = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
            process.wait()
            psutil.wait_procs(workers)
            return True
        return False

    def _check(self, name: str, code: int) -> None:
        if code:
            raise typer.BadParameter(f"{name} ended with exit code {code}; see {self.folder / name}.log")


def compared(run: Path) -> dict[str, Any]:
    """What two runs must agree in, by name."""
    found: dict[str, Any] = {
        str(path.relative_to(run)): path.read_bytes() for path in sorted(run.glob("**/final/*.safetensors"))
    }
    results = json.loads((run / "results.json").read_text())
    found["results.json"] = [{key: value for key, value in row.items() if key != "seconds"} for row in results]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if not k.startswith(CLOCK)} for line in lines]
    found["metrics.jsonl"] = rows
    return found


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names that only one of two runs has, or that differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def stage_now(run: Path) -> str:
    """The stage that a run is in, for the count of where kills fell."""
    if not (run / "recipe.yaml").is_file():
        return "before the first stage"
    stages = [path for path in run.iterdir() if path.is_dir() and (path / "final").exists()]
    begun = [path.name for path in run.iterdir() if path.is_dir() and any(path.glob("**/checkpoint-*"))]
    unfinished = [name for name in begun if not (run / name / "final").exists()]
    return unfinished[0] if unfinished else f"after {len(stages)} finished stages"


def main(
    recipe: Annotated[Path, typer.Argument(help="A recipe that trains in seconds.")] = Path("tests/tiny.yaml"),
    kills: Annotated[int, typer.Option(min=1)] = 50,
    per_run: Annotated[int, typer.Option(min=1, help="Kills of one run, at most.")] = 3,
    processes: Annotated[int, typer.Option(min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    folder: Annotated[Path, typer.Option(help="Where the runs go. It must not exist.")] = Path("outputs/kills"),
) -> None:
    if folder.exists():
        raise typer.BadParameter(f"{folder} exists. Remove it, or name another --folder.")
    folder.mkdir(parents=True)
    campaign, draw = Campaign(recipe, folder, processes), random.Random(seed)
    seconds = campaign.finish("unbroken")
    expected, done, runs, places, wrong = compared(folder / "unbroken"), 0, 0, Counter[str](), 0
    print(f"unbroken: {seconds:.1f} s on {processes} process(es)")
    while done < kills:
        name = f"broken-{runs}"
        runs += 1
        in_this = 0
        while in_this < per_run and done < kills and campaign.kill_after(name, draw.uniform(0.0, seconds)):
            done, in_this = done + 1, in_this + 1
            places[stage_now(folder / name)] += 1
        campaign.finish(name)
        found = differences(expected, compared(folder / name))
        wrong += bool(found)
        print(f"{name}: {in_this} kills, {'differs in ' + ', '.join(found) if found else 'equal'}", flush=True)
        if not found:
            shutil.rmtree(folder / name)
    print(f"{done} kills in {runs} runs: " + ", ".join(f"{count} {place}" for place, count in places.most_common()))
    print(f"{runs - wrong} of {runs} runs are equal to the unbroken one")
    raise typer.Exit(wrong > 0)


if __name__ == "__main__":
    typer.run(main)
