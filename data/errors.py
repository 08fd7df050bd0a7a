"""Errors a user can cause, and the helpers that word them."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """Base of all errors a user can cause.

    The message is one paragraph: what was received, and what to change.
    """


class TerminatedError(BaseException):
    """SIGTERM came. No library takes it for an error of its own, or for Ctrl-C."""


class DataError(UserError):
    """A problem file, a dataset or the settings of a task are not usable."""


def suggest(word: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the option nearest to `word`, or an empty string when none is near."""
    near = get_close_matches(word, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any, width: int = 80) -> str:
    """Return the repr of `value`, cut to `width` characters, for use in a message."""
    try:
        text = repr(value)
    except Exception:  # of an integer of more than 4,300 digits, or of an object whose own repr fails
        return "that cannot be shown"
    return text if len(text) <= width else text[: width - 3] + "..."


def reason(error: BaseException) -> str:
    """Return `Type: first line` of `error`, for use in a message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
