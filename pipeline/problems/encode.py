"""Problems and prompts as lists of token ids. No tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ...data.answer_formats import answer_format_of
from ...data.conversation import Conversation
from ...data.errors import DataError, shown
from ...data.problem import Problem
from ..latent.config import LatentConfig, ModelError
from .chat import Chat
from .text import text_ids

SEPARATOR = "\n"
PLAIN = LatentConfig()


@dataclass(frozen=True)
class Encoded:
    """Token ids of the parts of one problem. Joined they are the problem in text form.

    Attributes:
        question: With the beginning-of-sequence token, if the tokenizer has one. Of a chat, all turns up to and with
            what opens the assistant's.
        answer: `###` (or what else announces it) in front of it and the token that ends the text behind it included.
        prefix: Number of tokens in `answer` that announce it; 0 if they merged with the answer's own.
        named: What messages call the problem.
    """

    question: list[int]
    steps: list[list[int]]
    answer: list[int]
    prefix: int = 1
    named: str = "a problem"


def encode(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: LatentConfig = PLAIN
) -> list[Encoded]:
    """Tokenizes question, steps and answer separately, so that training and inference cut the text at the same places.

    Args:
        config: Says how questions are written and answers announced.

    Raises:
        DataError: A part that tokenizes to nothing, or to a control token.
        ModelError: See `question_ids`.
    """
    asked = [problem.question for problem in problems]
    questions = question_ids(asked, tokenizer, config, lambda place: sentence_case(problems[place].named))
    form = answer_format_of(config.answer_format)
    texts: list[str] = []
    of: list[Problem] = []
    for problem in problems:
        parts = [*(step + SEPARATOR for step in problem.steps), form.written(problem.answer)]
        texts += parts
        of += [problem] * len(parts)
    ids = iter(text_ids(texts, tokenizer, lambda place: sentence_case(of[place].named)))
    end, bos = text_end(tokenizer, config), _bos(tokenizer)
    announced = tokenizer(form.before.strip(), add_special_tokens=False)["input_ids"]
    closing = tokenizer(form.after, add_special_tokens=False)["input_ids"] if form.after else []
    encoded = []
    for problem, question in zip(problems, questions, strict=True):
        *steps, answer = [next(ids) for _ in range(len(problem.steps) + 1)]
        if question == bos or not all(steps) or not answer:
            raise DataError(f"{sentence_case(problem.named)} has a part that tokenizes to nothing. Remove or mend it.")
        prefix = len(announced) if answer[: len(announced)] == announced else 0
        if answer[prefix:] == closing:
            raise DataError(
                f"The answer {problem.answer!r} of {problem.named} tokenizes to nothing, so no stage could teach it. "
                "Remove or mend it."
            )
        encoded.append(Encoded(question, steps, [*answer, *end], prefix, problem.named))
    return encoded


def sentence_case(text: str) -> str:
    """Turns `the problem ...` into `The problem ...`. The name of a file stays as it is."""
    return f"The{text[3:]}" if text.startswith("the ") else text


def question_ids(
    questions: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    config: LatentConfig,
    name: Callable[[int], str],
) -> list[list[int]]:
    """Token ids of questions as training and inference show them, up to where latents, steps or answer begin.

    Args:
        config: Says whether they are lines or turns of a chat.
        name: Names the question of an index in messages.

    Raises:
        DataError: See `text_ids` and `Chat.prompt_ids`; a question of several turns that is to be a line.
        ModelError: A chat template that cannot be used, see `Chat.of`.
    """
    if config.format == "chat":
        return Chat.of(tokenizer, config.system_prompt).prompt_ids(questions, name)
    for place, question in enumerate(questions):
        if isinstance(question, Conversation):
            raise DataError(
                f"{name(place)} has a question of several turns, {shown(question.messages)}, which data.format=plain "
                "cannot write. Set data.format=chat, or give the question as one string."
            )
    bos = _bos(tokenizer)
    return [bos + row for row in text_ids([question + SEPARATOR for question in questions], tokenizer, name)]


def text_end(tokenizer: PreTrainedTokenizerBase, config: LatentConfig) -> list[int]:
    """Token ids behind every answer: the end of the assistant's turn, or of the sequence.

    Raises:
        ModelError: See `Chat.of`.
    """
    if config.format == "chat":
        return list(Chat.of(tokenizer, config.system_prompt).turn_end)
    return [tokenizer.eos_token_id]


def encode_prompts(
    questions: Sequence[str], num_latents: int, tokenizer: PreTrainedTokenizerBase, config: LatentConfig
) -> list[list[int]]:
    """Token ids of questions followed by their latent placeholders: the prompts of inference.

    Raises:
        UserError: An empty question, or one with a control token; see `question_ids`.
    """
    if not all(question.strip() for question in questions):
        raise ModelError("The question is empty. Give a question the model was trained for.")
    block = latent_block(num_latents, config)
    return [row + block for row in question_ids(questions, tokenizer, config, lambda place: f"Question {place}")]


def latent_block(num_latents: int, config: LatentConfig) -> list[int]:
    """Token ids of the placeholders of a thought, between delimiters if the model has them. Empty without latents."""
    start, latent, end = config.token_ids
    block = [latent] * num_latents
    return [start, *block, end] if config.delimiters and block else block


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token in a list, if the tokenizer puts one before every text (Llama). Else empty."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
