"""Whether problems fit the tokenizer, the model's context window and the supervision."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ...data.answer_formats import HASH, answer_format_of
from ...data.errors import DataError
from ...data.problem import Problem
from ..latent.config import ModelError
from .encode import SEPARATOR, Encoded, sentence_case
from .format import Format
from .schedule import Level
from .text import text_ids

logger = logging.getLogger(__name__)


def check_answers(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, answer_format: str = HASH.name
) -> None:
    """Checks that the tokenizer can write the answers that a model is measured by.

    Raises:
        DataError: An answer has a word that the tokenizer does not know, or takes for a control token.
    """
    form = answer_format_of(answer_format)
    answers = [form.written(problem.answer) for problem in problems]
    for row, ids in enumerate(text_ids(answers, tokenizer, lambda row: f"The answer of {problems[row].named}")):
        if tokenizer.unk_token_id in ids:
            raise DataError(
                f"The answer {problems[row].answer!r} of {problems[row].named} has words that the tokenizer does not "
                "know, so no training stage can show it. Evaluate on data of the kind the training data is."
            )


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
                    f"{sentence_case(item.named)} has {length} tokens at curriculum level {level.index}, the model's "
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


def longest_step(encoded: Sequence[Encoded]) -> int:
    """Tokens of the longest step; 0 without steps."""
    return max((len(step) for item in encoded for step in item.steps), default=0)


def warn_of_cut_steps(
    encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase, latents_per_step: int, remedy: str
) -> None:
    """Warns of steps with more tokens than latents, whose last tokens no latent stands for.

    Args:
        remedy: What to change.
    """
    steps = [(len(step), step, item.named) for item in encoded for step in item.steps]
    cut = [step for step in steps if step[0] > latents_per_step]
    if cut:
        length, step, named = max(cut, key=lambda found: found[0])
        logger.warning(
            "%d of %d steps have more tokens than their %d latents, which stand for the first ones only. The longest "
            "is %r of %s with %d. %s",
            len(cut), len(steps), latents_per_step, tokenizer.decode(step).strip(), named, length, remedy,
        )  # fmt: skip
