"""What is being done now, for the message of an error that nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Activity:
    """The present work of this process.

    Attributes:
        tasks: What is being done, the widest first: "training sft".
        folder: The run folder, where the trace of an error is kept; None before there is one.
        goes_on: How to go on after an interrupt or a full disk, a sentence.
    """

    tasks: list[str] = field(default_factory=list)
    folder: Path | None = None
    goes_on: str = "Run the command again."


NOW = Activity()


def begin() -> None:
    """Forgets the work of an earlier command."""
    NOW.tasks, NOW.folder, NOW.goes_on = [], None, Activity.goes_on


@contextmanager
def doing(task: str) -> Iterator[None]:
    """Names what its block does. After an error the name stays, for whoever reports the error."""
    NOW.tasks.append(task)
    yield
    NOW.tasks.pop()
