"""A bad day: one row of docs/reliability.md, which is also one test."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import ROOT

TINY = str(ROOT / "tests" / "tiny.yaml")
# Begins the stage sft of the tiny recipe.
SFT = ["train", TINY, "output_dir={folder}", "rl=null", "curriculum=null"]
SFT += ["tracking.wandb=false", "evaluate.sampling=[]"]
NOTHING_BEGUN = "nothing was begun"
AS_BEFORE = "the run, as it was"
FINISHED = "finished stages and checkpoints; --resume goes on"


@dataclass(frozen=True)
class Scene:
    """Where a day happens.

    Attributes:
        folder: A folder of its own; it stands for `{folder}` in the command.
        finished: A finished run of the tiny recipe, `{finished}` in the command. Not to be changed: copy it.
        cleanup: Undoes what the day did to the machine, such as a mount.
    """

    folder: Path
    finished: Path
    monkeypatch: pytest.MonkeyPatch
    cleanup: ExitStack


@dataclass(frozen=True)
class BadDay:
    """Something that goes wrong, and what the user meets then.

    Attributes:
        what: What was done or what happened, for the table.
        command: Arguments of `neuralese`; `{folder}` and `{finished}` are those of the scene.
        sees: Words of the message, on standard output, standard error or in the log. `{folder}` as above.
        kept: What is kept, for the table.
        code: Exit code; 0 where it is a warning, or no fault at all.
        before: Sets the scene.
        after: Asserts what is kept.
    """

    what: str
    command: Sequence[str]
    sees: str
    kept: str = NOTHING_BEGUN
    code: int = 2
    before: Callable[[Scene], object] | None = None
    after: Callable[[Scene], object] | None = None
