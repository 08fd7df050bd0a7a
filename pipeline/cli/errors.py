"""Every error ends here: as one paragraph for the user, which names a file with the stack trace.

Exit codes: 2 for what the user can mend (input, disk, memory), 1 for an unforeseen error, 3 for a curriculum that
stopped below a threshold, 130 for an interrupt, 143 for a SIGTERM.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TextIO

import typer

from ...data.errors import TerminatedError, UserError
from ..system.activity import NOW, begin
from ..system.files import write_whole
from ..system.sigterm import TERMINATED, sigterm_raises
from .machine_errors import explain

BAD_INPUT, UNEXPECTED, STOPPED, INTERRUPTED = 2, 1, 3, 130


def guard(work: Callable[[], Any], debug: bool) -> Any:
    """Runs a command. Any error it ends with is shown as one paragraph.

    Args:
        debug: Also print the stack trace.

    Raises:
        SystemExit: With the exit code, after an error.
    """
    begin()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal with a small character set shows ? for other characters
    try:
        with sigterm_raises():
            return work()
    except TerminatedError as end:
        complain(f"Terminated{_during()}. {end} What was finished is kept. {NOW.goes_on}", TERMINATED)
    except SystemExit as stop:
        # Typer turns an interrupt into this exit code without a message.
        if stop.code != INTERRUPTED:
            raise
        complain(f"Interrupted{_during()}. {NOW.goes_on}", INTERRUPTED)
    except Exception as error:
        if debug and _speaks():
            traceback.print_exception(error)
        complain(*_told(error))


def complain(message: str, code: int) -> NoReturn:
    """Ends the process with a message. Of the processes of a launch on one machine only one prints it."""
    _flush(sys.stdout)
    if _speaks():
        with contextlib.suppress(OSError):
            typer.secho(" ".join(message.split()), fg="red", err=True)
    if _in_company():
        # Threads that talk to the other processes, which may wait for this one, would keep the interpreter alive.
        _flush(sys.stderr)
        os._exit(code)
    sys.exit(code)


def _flush(stream: TextIO) -> None:
    """Flushes a stream. If its disk is full or its pipe is closed, what it holds is lost."""
    try:
        stream.flush()
    except OSError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), stream.fileno()
        )  # else the interpreter would flush it again at its end


def _told(error: Exception) -> tuple[str, int]:
    """The paragraph for an error, and the exit code."""
    if isinstance(error, UserError):
        # An error of other code below it, such as the user's reward, gets its stack trace kept once a run has begun.
        trace = _trace(error) if error.__cause__ is not None and NOW.folder is not None else ""
        return f"Error{_during()}: {error}{trace}", BAD_INPUT
    known = explain(error)
    if known is not None:
        return f"Error{_during()}: {known}{_trace(error)}", BAD_INPUT
    text = " ".join(f"{type(error).__name__}: {error}".split())
    shown = text if len(text) <= 300 else f"{text[:297]}..."
    kept = f" Finished stages and checkpoints stay. {NOW.goes_on}" if NOW.folder is not None else ""
    return (
        f"Error{_during()}: {shown.rstrip('.: ')}. Nobody foresaw this error: change what it names, or report it with "
        f"the trace.{kept}{_trace(error)}",
        UNEXPECTED,
    )


def _during() -> str:
    return f" while {NOW.tasks[-1]}" if NOW.tasks else ""


def _trace(error: Exception) -> str:
    """A sentence that names the file of the stack trace."""
    file = _keep(error) if _speaks() else None
    place = f" The full trace is in {file}, and" if file is not None else ""
    return f"{place} --debug shows {'it' if place else 'the full trace'}."


def _keep(error: Exception) -> Path | None:
    """Writes the stack trace into the run folder, else into a temporary file. None if neither can be written."""
    lines = [time.strftime("%Y-%m-%d %H:%M:%S"), _during().strip(), *traceback.format_exception(error)]
    text = "\n".join(lines).encode("utf-8", "backslashreplace").decode()  # a lone surrogate cannot be written
    for folder in (NOW.folder, None):
        try:
            if folder is not None:
                write_whole(folder / "error.log", text)
                return folder / "error.log"
            with tempfile.NamedTemporaryFile("w", prefix="neuralese-", suffix=".log", delete=False) as file:
                file.write(text)
            return Path(file.name)
        except OSError:  # the error may be a full or a read-only disk
            continue
    return None


def _in_company() -> bool:
    """Whether a launcher started several processes."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


_speaker: bool | None = None


def _speaks() -> bool:
    """Whether this process shows its error: only the first of its machine to fail in a launch does.

    The others fail because that one is gone, and their errors would hide the cause. torchrun makes a folder for the
    processes of a launch on one machine. The first to fail makes a file in it.
    """
    global _speaker
    given = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not _in_company() or given is None:
        return True
    if _speaker is None:
        try:
            (Path(given).parents[1] / "neuralese-speaks").touch(exist_ok=False)
            _speaker = True
        except FileExistsError:
            _speaker = False
        except OSError:  # torchrun's folder is gone or its disk is full: rather show it twice than never
            _speaker = True
    return _speaker
