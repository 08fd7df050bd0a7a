"""What this process is doing now, for the messages of errors and interrupts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Activity:
    """The present work of this process.

    Attributes:
        tasks: What is being done, such as "training sft". The last one is inside the ones before it.
        folder: The run folder, where the stack trace of an error is kept. None before there is one.
        goes_on: A sentence: how to go on after an interrupt or a full disk.
    """

    tasks: list[str] = field(default_factory=list)
    folder: Path | None = None
    goes_on: str = "Run the command again."

    @property
    def kept(self) -> str:
        """A sentence for messages that says what an error leaves and how to go on; empty before there is a run."""
        return "" if self.folder is None else f" Finished stages and the last checkpoint stay. {self.goes_on}"


NOW = Activity()


def begin() -> None:
    """Resets what an earlier command in this process has set."""
    NOW.tasks, NOW.folder, NOW.goes_on = [], None, Activity.goes_on


@contextmanager
def doing(task: str) -> Iterator[None]:
    """Names what its block does. After an error the name stays, for the message of the error."""
    NOW.tasks.append(task)
    yield
    NOW.tasks.pop()
