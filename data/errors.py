"""Errors that a user can cause, and helpers for their messages."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class UserError(Exception):
    """Base of all errors that a user can cause. The message is one paragraph: what was received, what to change."""


class TerminatedError(BaseException):
    """SIGTERM was received. It is no Exception, so that no library catches it, and differs from Ctrl-C.

    A message is a sentence for the user.
    """


class DataError(UserError):
    """A file of problems, a dataset, or the settings of a task cannot be used."""


def suggest(word: str, options: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` with the option nearest to `word`, or an empty string if none is near."""
    near = get_close_matches(word, list(options), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def shown(value: Any, width: int = 80) -> str:
    """Return the repr of `value`, cut to `width` characters, for use in a message."""
    try:
        text = repr(value)
    except Exception:  # an integer of more than 4,300 digits, or an object whose own repr fails
        return "that cannot be shown"
    return text if len(text) <= width else text[: width - 3] + "..."


def reason(error: BaseException) -> str:
    """`Type: first line` of an error, without its full stop, for use in a message."""
    kind, said = type(error).__name__, first_line(error)
    return kind if said == kind else f"{kind}: {said}"


def first_line(error: BaseException) -> str:
    """The first line of what an error says, without its full stop; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
