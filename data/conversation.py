"""Questions of several turns, and rows in the conversational form of TRL."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from .answer_formats import ANSWER_FORMATS, answer_format_of
from .errors import DataError, shown, suggest

ROLES = ("system", "user", "assistant")


class Conversation(str):
    """A question of several turns, or with a system turn of its own. As text it is the JSON of its messages.

    Being a string it is compared, kept and shown as other questions are, and two are equal if all their turns are.
    """

    __slots__ = ()

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as `{"role": ..., "content": ...}`; the last one is a user's."""
        return json.loads(self)


def as_question(messages: Sequence[Any], where: str) -> str:
    """Return messages as a question: the text of a single user turn, else a `Conversation`.

    Raises:
        DataError: a message has another form or role, a system turn is not the first, or the last is no user turn.
    """
    turns = [_turn(message, f"{where}: message {place}") for place, message in enumerate(messages)]
    roles = [turn["role"] for turn in turns]
    if not roles or roles[-1] != "user" or "system" in roles[1:]:
        raise DataError(
            f"{where}: the question has the turns {roles}. It must end with a user's, and a system turn may only be "
            f"the first."
        )
    return turns[0]["content"] if len(turns) == 1 else Conversation(json.dumps(turns, ensure_ascii=False))


def _turn(message: Any, name: str) -> dict[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
    if role not in ROLES or not isinstance(content, str) or not content.strip():
        hint = suggest(str(role), ROLES) if role is not None and role not in ROLES else ""
        raise DataError(
            f'{name} is {shown(message)}. Write it as {{"role": ..., "content": ...}}, with one of the roles '
            f"{', '.join(ROLES)} and a text that is not empty.{hint}"
        )
    return {"role": role, "content": content}


def as_json(question: str) -> str | list[dict[str, str]]:
    """A question as files hold it: `as_question` reads messages again."""
    return question.messages if isinstance(question, Conversation) else question


def turns_of(question: str) -> list[dict[str, str]]:
    """A question as messages: its turns, or one of a user."""
    return question.messages if isinstance(question, Conversation) else [{"role": "user", "content": question}]


def is_conversational(row: Any) -> bool:
    """Whether a row has TRL's conversational columns, `messages` or `prompt` with `completion`, and no question."""
    if not isinstance(row, dict) or "question" in row:
        return False
    pair = isinstance(row.get("prompt"), list) and isinstance(row.get("completion"), list)
    return pair or isinstance(row.get("messages"), list)


def from_conversational(
    row: dict[str, Any], where: str, split_steps: Callable[[str], list[str]], answer_format: str
) -> dict[str, Any]:
    """Return a conversational row with question, steps and answer in place of its messages.

    Args:
        split_steps: cuts the assistant's text before the answer into steps.
        answer_format: how the assistant announces the answer.

    Raises:
        DataError: the last message is not the assistant's, announces no answer, or has further lines after it.
    """
    form = answer_format_of(answer_format)
    used = ("prompt", "completion") if isinstance(row.get("prompt"), list) else ("messages",)
    messages = [message for name in used for message in row[name]]
    if used[0] == "prompt" and len(row["completion"]) != 1:
        raise DataError(
            f"{where}: completion has {len(row['completion'])} messages. It must hold one, the assistant's."
        )
    if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "assistant":
        raise DataError(
            f"{where}: the last message is {shown(messages[-1] if messages else None)}. It must be the assistant's, "
            f"with the solution."
        )
    solution = _turn(messages[-1], f"{where}: message {len(messages) - 1}")["content"].strip()
    parts = form.split(solution)
    if parts is None:
        raise DataError(
            f"{where}: the assistant's text {shown(solution)} announces no answer as {form.written('...')!r}. Set "
            f"data.answer_format to the way it does ({', '.join(ANSWER_FORMATS)}), or add the answer."
        )
    steps, answer = parts
    if "\n" in answer:
        raise DataError(f"{where}: lines follow the answer in {shown(solution)}. Remove them.")
    kept = {key: value for key, value in row.items() if key not in used}
    return {"question": messages[:-1], "steps": split_steps(steps), "answer": answer, **kept}
