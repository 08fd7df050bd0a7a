"""The training problems of a run as tokens, once they passed every check that a later stage would fail at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import GRPOConfig

from ...data.problem import Problem
from ..latent.config import LatentConfig, context_window
from ..latent.latentize import latent_section
from ..latent.noise import parse_noise
from ..latent.sampling.budget import check_budget
from ..latent.supervision import check_supervision
from ..model.answer_limits import check_answers_fit, check_evaluation_fits
from ..model.text_format import with_format
from ..problems.checks import (
    check_answers,
    check_context,
    check_one_token_steps,
    check_room,
    longest_step,
    warn_of_cut_steps,
)
from ..problems.encode import Encoded, encode, encode_prompts, latent_block
from ..problems.format import Format
from ..problems.load import Problems
from ..problems.readable_answers import compares
from ..problems.schedule import TEXT, Level
from ..recipe.load import RecipeError
from ..recipe.schema import Recipe, RLSection
from .curriculum.arms import ARMS, LATENT, latent_levels, most_steps
from .rl.settings import rl_rows


def encode_checked(
    recipe: Recipe, problems: Problems, tokenizer: PreTrainedTokenizerBase, config: Any
) -> tuple[Recipe, list[Encoded]]:
    """The training problems as tokens, in the same order. Errors of a later stage are raised here.

    Args:
        config: Transformers config of the base model.

    Returns:
        The recipe with what it leaves to the data and the model (see `with_latents_per_step` and `with_format`), and
        the problems.

    Raises:
        UserError: A part that tokenizes to nothing, a row longer than the context window at some level, steps or
            options that do not fit the supervision, a question without room for its answer, an answer that cannot be
            written, a limit on new tokens that cuts every answer, or a number of tokens to draw at once that does not
            hold one answer.
    """
    recipe = with_format(recipe, tokenizer, config)
    text = LatentConfig(**recipe.data.text_options)
    encoded = encode(problems.train, tokenizer, text)
    recipe = with_latents_per_step(recipe, encoded, tokenizer)
    window, section, latent = context_window(config.get_text_config()), recipe.curriculum, recipe.latent
    supervision = section.supervision if section is not None else "none"
    levels = shown_levels(recipe, problems.train)
    style = Format(
        replace(text, latents_per_step=latent.block_size, delimiters=latent.delimiters),
        section is None or section.pad_latents,
    )
    check_context(encoded, levels, style, window)
    if section is not None and any(level.num_latents for level in levels):
        check_supervision(supervision, section.supervision_options, config.get_text_config())
        if supervision == "next_step":
            check_one_token_steps(encoded, tokenizer)
    most = _most_latents(recipe, levels, config)
    block = latent_block(most, style.config)
    measured = [*problems.held_out, *problems.evaluation]
    check_answers(measured, tokenizer, recipe.data.answer_format)
    questions = [problem.question for problem in measured]
    prompts = encode_prompts(questions, most, tokenizer, style.config)
    check_room(questions, prompts, recipe.evaluate.max_new_tokens, window)
    thinking = _thinking(recipe, style.config, most, config)
    check_budget(
        "evaluate.batch_tokens", recipe.evaluate.batch_tokens, thinking, prompts, recipe.evaluate.max_new_tokens
    )
    check_evaluation_fits(recipe, tokenizer, measured, recipe.sft is not None, text)
    if recipe.rl is not None:
        if most == 0 and parse_noise(recipe.rl.noise) is not None:
            raise RecipeError(
                f"rl.noise={recipe.rl.noise} has no latents to fall on: the model reasons in text. Set rl.noise=null."
            )
        room = recipe.rl.trainer.get("max_completion_length", GRPOConfig.max_completion_length)
        _check_rollouts_fit(recipe, recipe.rl, room, encoded, most)
        rl_rows(problems.train, most, recipe.data.answer_format)
        rows = [item.question + block for item in encoded]
        check_room([problem.question for problem in problems.train], rows, room, window)
        check_budget("rl.rollout_batch_tokens", recipe.rl.rollout_batch_tokens, thinking, rows, room)
    return recipe, encoded


def with_latents_per_step(recipe: Recipe, encoded: Sequence[Encoded], tokenizer: PreTrainedTokenizerBase) -> Recipe:
    """The recipe with a number in place of `latents_per_step: auto`. Warns of steps that have too few latents.

    Raises:
        RecipeError: The number does not divide `max_latents`.
    """
    latent, section = recipe.latent, recipe.curriculum
    count, remedy = latent.block_size, "Raise latent.latents_per_step."
    if latent.latents_per_step == "auto":
        count = max(1, min(longest_step(encoded), latent.max_latents_per_step))
        remedy = "Raise latent.max_latents_per_step."
        if latent.max_latents is not None and latent.max_latents % count:
            raise RecipeError(
                f"latent.max_latents={latent.max_latents} is no multiple of {count}, which latents_per_step=auto is "
                f"for these problems. Remove it, or set it to {latent.max_latents // count * count or count}."
            )
        latent = latent.model_copy(update={"latents_per_step": count})
    if latent != recipe.latent or (section is not None and section.supervision == "step_tokens"):
        warn_of_cut_steps(encoded, tokenizer, count, remedy)
    return recipe.model_copy(update={"latent": latent})


def _check_rollouts_fit(recipe: Recipe, section: RLSection, room: int, train: Sequence[Encoded], most: int) -> None:
    """Checks that right answers fit into rollouts, see `check_answers_fit`.

    Args:
        room: The most tokens of a rollout.
        most: Latents of a question. At 0 a model that sft has shown text steps writes them before the answer.
    """
    writes_steps = recipe.sft is not None and most == 0
    is_compared = any(compares(reward.function) for reward in section.rewards)
    check_answers_fit("rl.trainer.max_completion_length", room, train, "training", writes_steps, is_compared)


def shown_levels(recipe: Recipe, train: Sequence[Problem]) -> list[Level]:
    """Every level that any arm of a recipe shows the model, each once."""
    section = recipe.curriculum
    if section is None:
        return [TEXT]
    latent = latent_levels(recipe, most_steps(train))
    arms = [name for name in (LATENT, *recipe.controls.chosen) if name != LATENT or recipe.controls.latent]
    levels = [level for name in arms for level in ARMS[name].plan(latent)]
    if recipe.sft is not None or section.mix_earlier or section.supervision == "distillation":
        levels.append(TEXT)
    return list(dict.fromkeys(levels))


def _most_latents(recipe: Recipe, levels: Sequence[Level], config: Any) -> int:
    """The most latents that a question is measured with. Without a curriculum those of the base checkpoint."""
    if recipe.curriculum is not None:
        return max(level.num_latents for level in levels)
    section = latent_section(config)
    return section.num_latents if section is not None else 0


def _thinking(recipe: Recipe, style: LatentConfig, most: int, config: Any) -> LatentConfig:
    """How the model will think once it is trained: in which passes, with what in sight.

    Args:
        style: Its text and its placeholders.
        most: Latents of a question.
    """
    if recipe.curriculum is not None:
        return replace(style, thought_source=recipe.latent.thought_source, **recipe.latent.passes(most))
    section = latent_section(config)
    return style if section is None else replace(section, token_ids=style.token_ids)
