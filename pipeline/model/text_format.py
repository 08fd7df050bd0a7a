"""Whether a recipe's questions are lines or turns of a chat, where `data.format: auto` leaves it to the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerBase

from ..latent.latentize import latent_section
from ..problems.chat import is_chat_model
from ..recipe.load import RecipeError
from ..recipe.schema import Recipe

logger = logging.getLogger(__name__)


def with_format(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, config: Any) -> Recipe:
    """The recipe with `plain` or `chat` in place of `data.format: auto`. Warns if a checkpoint was trained otherwise.

    Args:
        config: Transformers config of the base model.

    Raises:
        RecipeError: A system prompt, and the format turns out to be plain.
    """
    chosen, why = chosen_format(recipe, tokenizer, config)
    if chosen == "plain" and recipe.data.system_prompt is not None:
        raise RecipeError(
            f"data.system_prompt needs a chat, and data.format=auto is plain: {why}. Set data.format=chat, or remove "
            "the system prompt."
        )
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"format": chosen})})
    recorded = latent_section(config)
    if recorded is not None and recipe.model.config is None and PartialState().is_main_process:
        for key, value in recipe.data.text_options.items():
            if getattr(recorded, key) != value:
                logger.warning(
                    "The checkpoint was trained with data.%s=%s, and this run goes on with %s, which it has to learn.",
                    key, getattr(recorded, key), value,
                )  # fmt: skip
    return recipe


def chosen_format(recipe: Recipe, tokenizer: PreTrainedTokenizerBase, config: Any) -> tuple[str, str]:
    """`plain` or `chat`, and why."""
    if recipe.data.format != "auto":
        return recipe.data.format, "the recipe says so"
    recorded = latent_section(config)
    if recorded is not None:
        return recorded.format, "the checkpoint was trained so"
    if not tokenizer.chat_template:
        return "plain", "the tokenizer has no chat template"
    names = [Path(name).name for name in (recipe.model.name_or_path, tokenizer.name_or_path) if name]
    if is_chat_model(*names):
        return "chat", f"the model is called {names[0]} and has a chat template"
    return "plain", f"the name {names[0] if names else ''} does not say instruct, it or chat"
