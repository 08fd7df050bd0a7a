"""What a run computes in, where `model.dtype: auto` leaves it to the model."""

from __future__ import annotations

from ..recipe.load import RecipeError
from ..recipe.schema import Recipe
from .build import build_config, build_tokenizer
from .load import auto_dtype, load_tokenizer


def with_dtype(recipe: Recipe) -> Recipe:
    """The recipe with float32 or bfloat16 in place of `model.dtype: auto`, for all its stages and measurements.

    Raises:
        UserError: See `chosen_dtype`.
    """
    if recipe.model.dtype != "auto":
        return recipe
    model = recipe.model.model_copy(update={"dtype": chosen_dtype(recipe)[0]})
    return recipe.model_copy(update={"model": model})


def chosen_dtype(recipe: Recipe) -> tuple[str, str]:
    """float32 or bfloat16, and why. Of a trained model only its config and tokenizer are read.

    Raises:
        RecipeError: The checkpoint was trained in another dtype, which stages do not take.
        ModelError: There is no such model.
    """
    model = recipe.model
    if model.dtype != "auto":
        return model.dtype, "the recipe says so"
    if model.config is not None:
        return auto_dtype(build_config(model.config, build_tokenizer([])))
    config, _ = load_tokenizer(str(model.name_or_path), model.trust_remote_code, model.gguf_file)
    chosen, why = auto_dtype(config)
    if chosen not in ("float32", "bfloat16"):
        raise RecipeError(
            f"model.dtype=auto is {chosen}: {why}. Stages train in float32 or bfloat16: name one of them."
        )
    return chosen, why
