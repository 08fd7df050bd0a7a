"""What the stages of a recipe start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...latent.config import LatentConfig
from ...latent.latentize import latent_section
from ...latent.tokens import special_token_ids
from ...problems.encode import Encoded, latent_block
from ...recipe.schema import Recipe


@dataclass(frozen=True)
class Inputs:
    """What the stages of a recipe start from.

    Attributes:
        config: Transformers config of the base model.
        encoded: The training problems as tokens.
    """

    recipe: Recipe
    config: Any
    tokenizer: PreTrainedTokenizerBase
    encoded: Sequence[Encoded]

    def section(self, **options: Any) -> LatentConfig:
        """The latent section of a stage, over that of the base checkpoint where it has one."""
        base = latent_section(self.config) or LatentConfig()
        token_ids, text = special_token_ids(self.tokenizer), self.recipe.data.text_options
        return replace(base, token_ids=token_ids, compute_dtype=self.recipe.model.dtype, **text, **options)


def longest_prompts(inputs: Inputs, section: LatentConfig) -> list[list[int]]:
    """The questions with their placeholders, the longest first."""
    block = latent_block(section.num_latents, section)
    return sorted((item.question + block for item in inputs.encoded), key=len, reverse=True)
