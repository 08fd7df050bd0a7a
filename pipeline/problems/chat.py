"""Questions as turns of a tokenizer's chat template, up to where the assistant's turn begins.

    template: <|im_start|>user ⏎ question <|im_end|> ⏎ <|im_start|>assistant ⏎ | latents steps answer | <|im_end|>
              prompt_ids                                                         ours                   turn_end

The template alone writes control tokens: what users write stays text, whatever it spells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from ...data.conversation import turns_of
from ...data.errors import DataError, reason, shown
from ...data.problem import check_unicode
from ..latent.config import ModelError
from .text import control_ids

# Templates of Llama 3 write today's date, and prompts must not change from one day to the next. They get this date,
# which they also write where they cannot ask for the day.
DATE = datetime(2024, 7, 26)
CODES = ("%a", "%A", "%b", "%B", "%d", "%m", "%y", "%Y", "%H", "%I", "%M", "%S", "%p", "%j")
UNFIT = (TemplateError, ValueError, TypeError, NotImplementedError)  # what templates and tokenizers raise
REMEDY = "Set data.format=plain, or take a model whose template can"
_QUESTION, _SOLUTION = "Which7question", "That8solution"  # found again in what a template writes
_CHAT_NAME = re.compile(r"(?:^|[-_./ ])(?:instruct|it|chat)(?:$|[-_./ ])", re.IGNORECASE)


@dataclass(frozen=True)
class Chat:
    """The chat template of a tokenizer, once it is known to fit.

    Attributes:
        system_prompt: The system turn before each question that has none of its own; None: what the template writes.
        turn_end: Token ids that the template writes behind the assistant's text, up to the control token that ends the
            turn. The end-of-sequence token where it writes none.
    """

    tokenizer: PreTrainedTokenizerBase
    system_prompt: str | None
    turn_end: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, system_prompt: str | None = None) -> Chat:
        """
        Raises:
            ModelError: There is no template, or it drops or refuses the system prompt, drops the question, or does not
                open the assistant's turn for latents to stand in.
        """
        if not tokenizer.chat_template:
            raise ModelError(
                "data.format=chat needs a chat template, and the tokenizer has none, as those of base models. Set "
                "data.format=plain, or name a chat model (often -Instruct or -it) in model.name_or_path."
            )
        chat = cls(tokenizer, system_prompt, ())
        question = turns_of(_QUESTION)
        prompt = chat.checked_prompt(question)
        answered = [*question, {"role": "assistant", "content": _SOLUTION}]
        whole = chat.text_of(chat.with_system(answered), "the assistant's turn")
        between, found, behind = whole.removeprefix(prompt).partition(_SOLUTION)
        if not whole.startswith(prompt) or not found or chat.control_tokens_in(between):
            raise ModelError(
                "The chat template does not hold an assistant's turn that begins where the prompt ends: with "
                f"add_generation_prompt it writes {shown(prompt[-40:])}, and before an answer "
                f"{shown(whole.partition(_SOLUTION)[0][-40:])}. {REMEDY}."
            )
        return cls(tokenizer, system_prompt, chat.end_behind(behind))

    def prompt_ids(self, questions: Sequence[str], name: Callable[[int], str]) -> list[list[int]]:
        """Token ids of questions as turns, up to and with what opens the assistant's turn.

        Args:
            name: Names the question of an index in messages.

        Raises:
            DataError: The template refuses or drops turns, a question holds no valid Unicode, or spells a control token
                that the tokenizer cannot read as text.
        """
        for place, question in enumerate(questions):
            check_unicode(question, name(place))
        chats = [self.with_system(turns_of(question)) for question in questions]
        if not chats:
            return []
        try:
            rows = self._ids(chats)
        except UNFIT:  # of a batch the error does not tell which
            rows = [self._own_ids(chat, name(place)) for place, chat in enumerate(chats)]
        control, around = control_ids(self.tokenizer), dict[tuple[str, ...], list[int]]()
        for place, (chat, ids) in enumerate(zip(chats, rows, strict=True)):
            roles = tuple(turn["role"] for turn in chat)
            if roles not in around:
                around[roles] = self._control_around(roles, name(place))
            if [token for token in ids if token in control] != around[roles]:
                raise DataError(
                    f"{name(place)} spells a control token, which this tokenizer cannot read as text: "
                    f"{shown(questions[place])}. Write it in another way, or remove the row."
                )
        return rows

    def _control_around(self, roles: Sequence[str], name: str) -> list[int]:
        """The control tokens that the template writes around turns of these roles, whatever they say.

        Raises:
            DataError: It drops one of the turns.
        """
        blank = [{"role": role, "content": f"Turn{place}turn"} for place, role in enumerate(roles)]
        text = self._rendered(blank, tokenize=False)
        dropped = [turn["role"] for turn in blank if turn["content"] not in text]
        if dropped:
            raise DataError(
                f"{name} has the turns {list(roles)}, of which the chat template drops that of the {dropped[0]}. "
                "Remove it, or write its text into another turn."
            )
        return self.control_tokens_in(text)

    def _ids(self, chats: list[list[dict[str, str]]]) -> list[list[int]]:
        return self._rendered(chats, tokenize=True, sanitize_control_tokens=True, return_dict=False)

    def _own_ids(self, chat: list[dict[str, str]], name: str) -> list[int]:
        try:
            return self._ids([chat])[0]
        except UNFIT as error:
            raise DataError(
                f"{name} does not fit the chat template: {reason(error)}. Its turns are {shown(chat)}. Change or "
                "remove it."
            ) from error

    def with_system(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        if self.system_prompt is None or messages[0]["role"] == "system":
            return messages
        return [{"role": "system", "content": self.system_prompt}, *messages]

    def checked_prompt(self, question: list[dict[str, str]]) -> str:
        """The text of a prompt, which holds the question and the system prompt."""
        prompt = self.text_of(question, "a question")
        if _QUESTION not in prompt:
            raise ModelError(f"The chat template does not write the question: {shown(prompt)}. {REMEDY}.")
        if self.system_prompt is None:
            return prompt
        remove = "Remove data.system_prompt, or write it into the questions."
        try:
            prompt = self._rendered(self.with_system(question), tokenize=False)
        except TemplateError as error:
            raise ModelError(f"The chat template takes no system turn: {reason(error)}. {remove}") from error
        if self.system_prompt.strip() not in prompt:
            raise ModelError(f"The chat template drops the system turn {shown(self.system_prompt)}. {remove}")
        return prompt

    def text_of(self, messages: list[dict[str, str]], what: str) -> str:
        try:
            return self._rendered(messages, messages[-1]["role"] == "user", tokenize=False)
        except UNFIT as error:
            raise ModelError(f"The chat template cannot write {what}: {reason(error)}. {REMEDY}.") from error

    def _rendered(self, messages: Sequence[Any], add_generation_prompt: bool = True, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=with_fixed_date(self.tokenizer.get_chat_template()),
            add_generation_prompt=add_generation_prompt,
            **options,
        )

    def control_tokens_in(self, text: str) -> list[int]:
        """The control tokens in what a template wrote."""
        control = control_ids(self.tokenizer)
        return [token for token in self.tokenizer(text, add_special_tokens=False)["input_ids"] if token in control]

    def end_behind(self, behind: str) -> tuple[int, ...]:
        ids, control = self.tokenizer(behind, add_special_tokens=False)["input_ids"], control_ids(self.tokenizer)
        places = [place for place, token in enumerate(ids) if token in control]
        return tuple(ids[: places[0] + 1]) if places else (self.tokenizer.eos_token_id,)


def with_fixed_date(template: str) -> str:
    """A template in which the function `strftime_now` of Transformers tells `DATE`, not today."""
    if "strftime_now" not in template:
        return template
    filled = "".join(f" | replace('{code}', '{DATE.strftime(code)}')" for code in CODES)
    # +: no white space of the template itself is cut.
    return f"{{% macro strftime_now(form) %}}{{{{ form{filled} }}}}{{% endmacro +%}}{template}"


def is_chat_model(*names: str | None) -> bool:
    """Whether one of a model's names says that it was trained to chat, as those with -Instruct, -it and -chat do."""
    return any(_CHAT_NAME.search(name) is not None for name in names if name)
