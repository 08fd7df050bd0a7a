"""Whether right answers fit into the limit on new tokens, checked before anything is trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ...data.problem import Problem
from ..latent.config import LatentConfig
from ..latent.latentize import latent_section
from ..problems.encode import Encoded, encode
from ..problems.readable_answers import compares
from ..recipe.load import RecipeError
from ..recipe.schema import Recipe
from .load import load_tokenizer
from .text_format import with_format

logger = logging.getLogger(__name__)


def check_checkpoints_fit(recipe: Recipe, checkpoints: Mapping[str, Path], problems: Sequence[Problem]) -> None:
    """`check_evaluation_fits` for trained checkpoints.

    Args:
        checkpoints: Checkpoints to evaluate, by stage. That of sft writes text steps before the answer.
    """
    config, tokenizer = load_tokenizer(next(iter(checkpoints.values())), recipe.model.trust_remote_code)
    section = latent_section(config) or LatentConfig(**with_format(recipe, tokenizer, config).data.text_options)
    check_evaluation_fits(recipe, tokenizer, problems, "sft" in checkpoints, section)


def check_evaluation_fits(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    problems: Sequence[Problem],
    with_steps: bool,
    config: LatentConfig,
) -> None:
    """Checks that the answers fit into `evaluate.max_new_tokens`, see `check_answers_fit`.

    Args:
        config: Says how problems are written.
    """
    written = problems if with_steps else [replace(problem, steps=()) for problem in problems]
    room, is_compared = recipe.evaluate.max_new_tokens, compares(recipe.evaluate.scorer)
    encoded = encode(written, tokenizer, config)
    check_answers_fit("evaluate.max_new_tokens", room, encoded, "measured", with_steps, is_compared)


def check_answers_fit(
    key: str, room: int, encoded: Sequence[Encoded], what: str, with_steps: bool, is_compared: bool
) -> None:
    """Warns if a limit on new tokens cuts right answers: how many, and the length of the longest.

    Args:
        key: The recipe key that sets the limit.
        room: The most new tokens.
        what: Word for the answers in the message, such as training.
        with_steps: The model writes the text steps before the answer.
        is_compared: The scorer or reward compares what the model writes with the answer.

    Raises:
        RecipeError: No answer fits, even without steps and end token, so that none could be right.
    """
    lengths = [len(item.answer) + with_steps * sum(map(len, item.steps)) for item in encoded]
    cut = [length for length in lengths if length > room]
    if not cut:
        return
    said = (
        f"{key}={room} cuts {len(cut)} of {len(lengths)} {what} answers, the longest of which has {max(cut)} tokens "
        f"with its {'steps, ' if with_steps else ''}marker and end token."
    )
    advice = f"Set {key} to {max(cut)} or more."
    if is_compared and min(len(item.answer) for item in encoded) - 1 > room:
        raise RecipeError(f"{said} None could be right. {advice}")
    if PartialState().is_main_process:
        logger.warning("%s Such answers can hardly be right. %s", said, advice)
