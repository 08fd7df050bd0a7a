"""Problems as lists of token ids and labels, at every level of the curriculum. No tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...data.errors import DataError
from ...data.problem import Problem
from ..latent.config import LatentConfig, ModelError
from ..latent.supervision import IGNORE
from .schedule import TEXT, Level
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
    ids = iter(text_ids(texts, tokenizer, lambda place: _sentence_case(of[place].named)))
    bos, announced = _bos(tokenizer), tokenizer(ANSWER_PREFIX.strip(), add_special_tokens=False)["input_ids"]
    encoded = []
    for problem in problems:
        question, *steps, answer = [next(ids) for _ in range(len(problem.steps) + 2)]
        if not question or not all(steps) or not answer:
            raise DataError(f"{_sentence_case(problem.named)} has a part that tokenizes to nothing. Remove or mend it.")
        prefix = len(announced) if answer[: len(announced)] == announced else 0
        if len(answer) == prefix:
            raise DataError(
                f"The answer {problem.answer!r} of {problem.named} tokenizes to nothing, so no stage could teach it. "
                "Remove or mend it."
            )
        encoded.append(Encoded(bos + question, steps, [*answer, tokenizer.eos_token_id], prefix, problem.named))
    return encoded


def check_answers(problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that the tokenizer can write the answers that a model is measured by.

    Raises:
        DataError: An answer has a word that the tokenizer does not know, or takes for a control token.
    """
    answers = [problem.answer for problem in problems]
    for row, ids in enumerate(text_ids(answers, tokenizer, lambda row: f"The answer of {problems[row].named}")):
        if tokenizer.unk_token_id in ids:
            raise DataError(
                f"The answer {problems[row].answer!r} of {problems[row].named} has words that the tokenizer does not "
                "know, so no training stage can show it. Evaluate on data of the kind the training data is."
            )


def _sentence_case(text: str) -> str:
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


def check_room(questions: Sequence[str], prompts: Sequence[Sequence[int]], room: int, limit: int | None) -> None:
    """Checks that every prompt leaves room for `room` new tokens in the context window.

    Args:
        limit: Tokens of the context window. None: unknown, nothing is checked.

    Raises:
        ModelError: Names the first prompt that is too long.
    """
    for question, ids in zip(questions, prompts, strict=True):
        if limit is not None and len(ids) + room > limit:
            raise ModelError(
                f"The question with its latents has {len(ids)} tokens; with {room} new tokens that exceeds the model's "
                f"context window of {limit}. Shorten the question {question[:60]!r}… or lower max_new_tokens."
            )


def latent_block(num_latents: int, config: LatentConfig) -> list[int]:
    """Token ids of the placeholders of a thought, between delimiters if the model has them. Empty without latents."""
    start, latent, end = config.token_ids
    block = [latent] * num_latents
    return [start, *block, end] if config.delimiters and block else block


@dataclass(frozen=True)
class Format:
    """How problems become token ids and labels.

    Attributes:
        config: The latent section of the model.
        pad_latents: All problems have the latents of the level. False: a problem has those of its own steps.
        eos_token_id: Ends a step that the decoder supervision learns to write.
    """

    config: LatentConfig
    pad_latents: bool = True
    eos_token_id: int = -1

    def count(self, encoded: Encoded, level: Level) -> int:
        """Number of latents of a problem at a level. A problem without steps counts as having one step."""
        own = max(1, len(encoded.steps)) * self.config.latents_per_step
        return level.num_latents if self.pad_latents else min(level.num_latents, own)

    def render(self, encoded: Encoded, level: Level) -> tuple[list[int], list[int]]:
        """Token ids (T) and labels (T) of a problem at a level. The loss falls on everything after the latents.

        With next_step supervision the first latent of each replaced step is labelled with the first token of the step:
        the hidden state that the latent is made from learns to predict it.
        """
        removed = len(encoded.steps) if level.removed_steps is None else level.removed_steps
        count, c = self.count(encoded, level), self.config.latents_per_step
        block = latent_block(count, self.config)
        block_labels = [IGNORE] * len(block)
        if self.config.supervision == "next_step":
            first = 1 if self.config.delimiters else 0
            for index, step in enumerate(encoded.steps[: count // c]):
                block_labels[first + index * c] = step[0]
        target = [token for step in encoded.steps[removed:] for token in step] + encoded.answer
        return encoded.question + block + target, [IGNORE] * len(encoded.question) + block_labels + target

    def example(self, encoded: Encoded, level: Level) -> dict[str, Any]:
        """A training example: `input_ids`, `labels`, and what the supervision reads (see `latent.supervision`)."""
        ids, labels = self.render(encoded, level)
        example: dict[str, Any] = {"input_ids": ids, "labels": labels}
        if self.config.supervision == "decoder":
            steps = encoded.steps[: self.count(encoded, level) // self.config.latents_per_step]
            example["step_ids"] = [[*step, self.eos_token_id] for step in steps]
        elif self.config.supervision == "distillation":
            text, text_labels = self.render(encoded, TEXT)
            before_answer = len(encoded.answer) - encoded.prefix + 1
            example |= {
                "teacher_ids": text,
                "teacher_labels": text_labels,
                "teacher_position": len(text) - before_answer,
                "student_position": len(ids) - before_answer,
            }
        return example


def check_context(encoded: Sequence[Encoded], levels: Sequence[Level], style: Format, limit: int | None) -> None:
    """Checks that every problem fits into the context window at every level.

    Raises:
        DataError: Names the first that does not.
    """
    if limit is None:
        return
    for item in encoded:
        for level in levels:
            length = len(style.render(item, level)[0])
            if length > limit:
                raise DataError(
                    f"{_sentence_case(item.named)} has {length} tokens at curriculum level {level.index}, the model's "
                    f"context window is {limit}. Remove the problem or choose a model with a longer window."
                )


def check_one_token_steps(encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> None:
    """Checks that every step is one token, not counting those of the line end.

    Raises:
        DataError: A step has several tokens, and next_step supervision has one label for it.
    """
    separator = len(tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    for item in encoded:
        for step in item.steps:
            if len(step) > 1 + separator:
                raise DataError(
                    f"Step {tokenizer.decode(step)!r} of {item.named} has {len(step)} tokens, but next_step "
                    "supervision labels a latent with one token. Set curriculum.supervision=decoder for such steps."
                )


def _bos(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-sequence token in a list, if the tokenizer puts one before every text (Llama). Else empty."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("")["input_ids"][:1] == [bos] else []
