"""Runs the missing cells (arm x seed) of a sweep, keeps a row of results of each, and renders their tables.

    python scripts/sweep.py docs/results/NAME.yaml [--jobs 2] [--only ARM] [--shard I/N] [--stale] [--list | --render]

Runs are in outputs/sweeps/ of the repository, rows in docs/results/NAME/, tables in docs/results/NAME.md. A sweep that
was killed goes on when it is started again.
Exit code: 0 all cells have a row, 1 some failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated

import typer
from sweep_cells import (
    Row,
    changed_keys,
    current_commit,
    holds_other_run,
    read_held_out,
    read_reports,
    read_row,
    read_starts,
    result_keys,
    state_of,
    try_lock,
    write_row,
    write_starts,
)
from sweep_file import PLACE, Cell, SweepError, cells_of, choose, load_sweep
from sweep_handover import take_over
from sweep_page import around_markers, render

from neuralese.data.errors import UserError
from neuralese.pipeline.cli.errors import STOPPED
from neuralese.pipeline.recipe.load import load_recipe, nearest

TRAIN = [sys.executable, "-m", "neuralese.pipeline.cli", "train"]
PATIENCE = 120.0  # seconds an interrupted run has to finish its step and save it
POLL = 0.2


@dataclass
class Job:
    """The run of a cell. The run inherits `lock`, so the cell stays locked if only the sweep is killed."""

    cell: Cell
    process: subprocess.Popen[bytes]
    lock: IO[str]
    threads: int


def run_cells(cells: Sequence[Cell], jobs: int, threads: int, stale: bool = False) -> list[Cell]:
    """Runs cells, `jobs` at a time, and returns those that failed.

    Waits for cells that another process runs. An interrupt ends the runs before it is passed on.
    """
    waiting, running, failed = list(cells), [], []
    told: set[str] = set()
    try:
        while waiting or running:
            for cell in list(waiting):
                if len(running) == jobs:
                    break
                if cell.after in [*waiting, *(job.cell for job in running)]:
                    continue
                lock = try_lock(cell)
                if lock is not None:
                    waiting.remove(cell)
                    if is_wanted(cell, stale):
                        running.append(start(cell, lock, threads, stale))
                    else:
                        lock.close()  # another process made its row meanwhile
                elif cell.recipe.name not in told:
                    told.add(cell.recipe.name)
                    print(f"waits    {cell.recipe.name}: another process runs it", flush=True)
            time.sleep(POLL)
            for job in [job for job in running if job.process.poll() is not None]:
                running.remove(job)
                if not finish(job):
                    failed.append(job.cell)
    finally:
        stop(running)
    return failed


def is_wanted(cell: Cell, stale: bool) -> bool:
    """Whether to run a cell: it has no row, or `stale` is set and its row is of another recipe."""
    row = read_row(cell)
    return row is None or (stale and bool(changed_keys(row, cell.recipe)))


def start(cell: Cell, lock: IO[str], threads: int, stale: bool) -> Job:
    """Starts the run of a cell, or goes on with the run in its folder."""
    if stale and holds_other_run(cell):
        target = cell.beside(".stale")
        shutil.rmtree(target, ignore_errors=True)
        cell.recipe.folder.rename(target)
    resumed = cell.recipe.folder.is_dir()
    starts = read_starts(cell) if resumed else {"commits": [], "taken_over": take_over(cell)}
    write_starts(cell, {**starts, "commits": [*starts["commits"], current_commit()], "exit": None})
    with cell.beside(".log").open("ab" if resumed else "wb") as log:
        process = subprocess.Popen(
            [*TRAIN, *cell.arguments, "--resume"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            pass_fds=[lock.fileno()],
            start_new_session=True,  # an interrupt in the terminal reaches it through us alone
        )
    print(f"{'resumes' if resumed else 'starts':8} {cell.recipe.name}, log {cell.beside('.log')}", flush=True)
    return Job(cell, process, lock, threads)


def refuse_other_runs(cells: Sequence[Cell]) -> None:
    """Checks before anything runs that no folder is in the way.

    Raises:
        SweepError: The folder of a cell holds an unfinished run of another recipe, and no process runs it.
    """
    for cell in cells:
        if state_of(cell)[0] in ("half-done", "failed") and holds_other_run(cell):
            raise SweepError(
                f"{cell.recipe.folder} holds an unfinished run, and its recipe has changed since. With --stale it is "
                f"moved to {cell.beside('.stale')} and the cell is begun anew."
            )


def finish(job: Job) -> bool:
    """Writes the row of a finished run, or shows the end of the log of a failed one. Returns whether it succeeded."""
    cell, code = job.cell, job.process.returncode
    folder = cell.recipe.folder
    good = code in (0, STOPPED) and (folder / "results.json").is_file()
    starts = {**read_starts(cell), "exit": code}
    if good:
        seconds = json.loads((folder / "seconds.json").read_text())
        row = Row(
            command=shlex.join(["neuralese", "train", *cell.arguments]),
            commit=", ".join(dict.fromkeys([*starts.get("taken_over", []), *starts["commits"]])),
            threads=job.threads,
            resumed=len(starts["commits"]) > 1,
            stopped=code == STOPPED,
            seconds=seconds,
            recipe=result_keys(load_recipe(folder / "recipe.yaml")),  # what was run, should the file have changed since
            results=json.loads((folder / "results.json").read_text()),
            reports=read_reports(folder),
            held_out=read_held_out(folder),
        )
        write_row(cell, row)
        note = ", stopped below its threshold" if row.stopped else ""
        print(f"done     {cell.recipe.name}, {sum(seconds.values()):.0f} s{note}", flush=True)
    else:
        tail = cell.beside(".log").read_text(errors="replace").splitlines()[-15:]
        print(f"FAILED   {cell.recipe.name} with exit code {code}; the end of {cell.beside('.log')}:")
        print("\n".join(f"         {line}" for line in tail), flush=True)
    write_starts(cell, starts)
    job.lock.close()
    return good


def stop(jobs: Sequence[Job]) -> None:
    """Terminates runs, which save the step they are in, and kills those that have not ended after PATIENCE seconds."""
    alive = [job for job in jobs if job.process.poll() is None]
    for job in alive:
        os.killpg(job.process.pid, signal.SIGTERM)
    if alive:
        print("Runs end after the step they are in, which they save. Another interrupt kills them.", flush=True)
    try:
        deadline = time.monotonic() + PATIENCE
        while any(job.process.poll() is None for job in jobs) and time.monotonic() < deadline:
            time.sleep(POLL)
    finally:
        for job in jobs:
            if job.process.poll() is None:
                os.killpg(job.process.pid, signal.SIGKILL)
                job.process.wait()
            job.lock.close()


def threads_of(jobs: int) -> int:
    """Threads of a run: OMP_NUM_THREADS if it is set, else an equal share of the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or max(1, cores // jobs))


def enter_repository(file: Path) -> Path:
    """Changes to the root of the repository of a sweep file; returns the path of the file from there."""
    file = file.resolve()
    if not file.match(str(PLACE / "*.yaml")):
        raise SweepError(f"A sweep file is {PLACE}/<name>.yaml of a repository, not {file}.")
    if not file.is_file():
        known = [other.name for other in file.parent.glob("*.yaml")]
        raise SweepError(f"No sweep file at {file}{nearest(file.name, known) if known else ''}.")
    os.chdir(file.parents[len(PLACE.parts)])
    return PLACE / file.name


def list_cells(cells: Sequence[Cell]) -> None:
    for cell in cells:
        state, more = state_of(cell)
        print(f"{cell.arm:20} seed {cell.seed:<4} {state:10} {more}".rstrip())


def warn_of_stale(cells: Sequence[Cell]) -> None:
    for cell in cells:
        state, more = state_of(cell)
        if state == "stale":
            print(f"STALE    {cell.row_file}: {more}. With --stale it is run again.")


def main(
    file: Annotated[Path, typer.Argument(help="Sweep file: docs/results/NAME.yaml of a repository.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="An arm to run; repeat for more.")] = None,
    shard: Annotated[str | None, typer.Option(help="I/N: the Ith of N shares of the cells; renders nothing.")] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Run cells again whose recipe has changed.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="Show the cells and their state; run nothing.")] = False,
    render_: Annotated[bool, typer.Option("--render", help="Render the tables; run nothing.")] = False,
) -> None:
    file = enter_repository(file)
    sweep, name = load_sweep(file), file.stem
    cells = cells_of(name, sweep)
    chosen = choose(cells, only or [], shard)
    if list_:
        return list_cells(chosen)
    if shard is None:
        around_markers(name)  # complain now, not after hours
    failed = []
    if not render_:
        wanted = [cell for cell in chosen if is_wanted(cell, stale)]
        if not stale:
            refuse_other_runs(wanted)
        print(f"{len(wanted)} of {len(chosen)} cells to run.", flush=True)
        try:
            failed = run_cells(wanted, jobs, threads_of(jobs), stale)
        except KeyboardInterrupt:
            print("Interrupted. The same command goes on from here.")
            raise typer.Exit(130) from None
    warn_of_stale(cells)
    if shard is None:
        render(name, sweep, cells)
    if failed:
        print(f"Failed: {', '.join(cell.recipe.name for cell in failed)}. The same command tries again.")
        raise typer.Exit(1)


def command() -> None:
    """Runs the command line. An error that the user can mend is printed as one paragraph."""
    # Also makes runs heed an interrupt where a shell started us in the background, with interrupts ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        typer.run(main)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    command()
