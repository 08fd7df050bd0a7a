"""The answer in a completion: what follows the last `###`, or what another answer format announces."""

from collections.abc import Sequence
from typing import Any

from ..data.answer_formats import HASH, answer_format_of


def completion_text(completion: Any) -> str:
    """Return the text of a completion: a string, or for conversational data the assistant's messages joined by lines.

    Raises:
        TypeError: the completion is neither a string nor a list of messages with text content.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list) or not all(isinstance(message, dict) for message in completion):
        raise TypeError(f"a completion is a string or a list of messages, got {type(completion).__name__}")
    return "\n".join(_content(message) for message in completion if message.get("role") == "assistant")


def _content(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is None:  # a message that only calls a tool
        return ""
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    if not isinstance(content, str):
        raise TypeError(f"the content of a message is a string, got {type(content).__name__}")
    return content


def normalise_answer(text: str) -> str:
    """Return `text` without outer white space and with every inner run of white space as one space."""
    return " ".join(text.split())


def extract_answer(text: str, answer_format: str = HASH.name) -> str:
    """Return the last answer that `text` announces, or the whole text when there is none; white space normalised.

    Args:
        answer_format: `hash`, what follows the last `###`; `####` (GSM8K) works too. `boxed`, the content of the last
            `\\boxed{}` that is closed. `sentence`, what follows the last "The answer is", without its full stop.
    """
    return normalise_answer(answer_format_of(answer_format).read(text))


def has_answer_format(text: str, answer_format: str = HASH.name) -> bool:
    """Tell whether `text` ends with one answer of one line, announced once and exactly as the format writes it."""
    return answer_format_of(answer_format).is_in(text)


def stated_answers(completions: Sequence[Any], answer_format: Sequence[str] | None) -> list[str]:
    """Return the answer of each completion.

    Args:
        answer_format: the column of that name; None: `hash`.
    """
    names = [HASH.name] * len(completions) if answer_format is None else answer_format
    return [extract_answer(completion_text(text), name) for text, name in zip(completions, names, strict=True)]
