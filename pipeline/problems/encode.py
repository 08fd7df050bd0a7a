"""Problems and prompts as lists of token ids. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ...data.errors import DataError
from ...data.problem import Problem
from ..latent.config import LatentConfig, ModelError
from .text import text_ids

SEPARATOR = "\n"
ANSWER_PREFIX = "### "


@dataclass(frozen=True)
class Encoded:
    """Token ids of the parts of one problem. Joined they are the problem in text form.

    Attributes:
        question: With the beginning-of-sequence token, if the tokenizer has one.
        answer: `###` in front of it and the end-of-sequence token behind it included.
        prefix: Number of tokens of `###` in `answer`; 0 if they merged with the answer's own.
        named: What messages call the problem.
    """

    question: list[int]
    steps: list[list[int]]
    answer: list[int]
    prefix: int = 1
    named: str = "a problem"


def encode(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Tokenizes question, steps and answer separately, so that training and inference cut the text at the same places.

    Raises:
        DataError: A part that tokenizes to nothing, or to a control token.
    """
    texts: list[str] = []
    of: list[Problem] = []
    for problem in problems:
        parts = _parts(problem)
        texts += parts
        of += [problem] * len(parts)
    ids = iter(text_ids(texts, tokenizer, lambda place: sentence_case(of[place].named)))
    bos, announced = _bos(tokenizer), tokenizer(ANSWER_PREFIX.strip(), add_special_tokens=False)["input_ids"]
    encoded = []
    for problem in problems:
        question, *steps, answer = [next(ids) for _ in range(len(problem.steps) + 2)]
        if not question or not all(steps) or not answer:
            raise DataError(f"{sentence_case(problem.named)} has a part that tokenizes to nothing. Remove or mend it.")
        prefix = len(announced) if answer[: len(announced)] == announced else 0
        if len(answer) == prefix:
            raise DataError(
                f"The answer {problem.answer!r} of {problem.named} tokenizes to nothing, so no stage could teach it. "
                "Remove or mend it."
            )
        encoded.append(Encoded(bos + question, steps, [*answer, tokenizer.eos_token_id], prefix, problem.named))
    return encoded


def sentence_case(text: str) -> str:
    """Turns `the problem ...` into `The problem ...`. The name of a file stays as it is."""
    return f"The{text[3:]}" if text.startswith("the ") else text


def _parts(problem: Problem) -> list[str]:
    """The text of each part: question, steps, answer."""
    return [problem.question + SEPARATOR, *(s + SEPARATOR for s in problem.steps), ANSWER_PREFIX + problem.answer]


def encode_prompts(
    questions: Sequence[str], num_latents: int, tokenizer: PreTrainedTokenizerBase, config: LatentConfig
) -> list[list[int]]:
    """Token ids of questions followed by their latent placeholders: the prompts of inference.

    Raises:
        UserError: An empty question, or one with a control token.
    """
    if not all(question.strip() for question in questions):
        raise ModelError("The question is empty. Give a question the model was trained for.")
    bos, block = _bos(tokenizer), latent_block(num_latents, config)
    texts = [question + SEPARATOR for question in questions]
    return [bos + row + block for row in text_ids(texts, tokenizer, lambda place: f"Question {place}")]


def latent_block(num_latents: int, config: LatentConfig) -> list[int]:
    """Token ids of the placeholders of a thought, between delimiters if the model has them. Empty without latents."""
    start, latent, end = config.token_ids
    block = [latent] * num_latents
    return [start, *block, end] if config.delimiters and block else block


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token in a list, if the tokenizer puts one before every text (Llama). Else empty."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
