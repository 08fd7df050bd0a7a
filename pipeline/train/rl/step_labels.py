"""Labels on the latents of rollouts: they keep in RL what the supervision `step_tokens` taught thoughts to say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...latent.config import LatentConfig
from ...latent.supervision import IGNORE
from ...problems.encode import Encoded
from ...problems.format import Format
from ...recipe.load import RecipeError


@dataclass(frozen=True)
class StepLabels:
    """The labels of the training problems.

    Attributes:
        weight: Of their mean loss, beside TRL's loss.
        of: Question -> the label of each of its latents, -100 for none.
    """

    weight: float
    of: Mapping[str, Sequence[int]]

    @classmethod
    def make(
        cls, weight: float, questions: Sequence[str], encoded: Sequence[Encoded], config: LatentConfig, eos: int
    ) -> StepLabels:
        """Labels of all problems, with all of their steps replaced.

        Args:
            eos: End-of-sequence token, which fills blocks where the supervision asks for it.

        Raises:
            RecipeError: The model was not trained with such labels.
        """
        if config.supervision != "step_tokens":
            raise RecipeError(
                f"rl.step_tokens_weight={weight} keeps the loss of the supervision step_tokens, but the model was "
                f"trained with the supervision {config.supervision}. Set curriculum.supervision=step_tokens, or remove "
                "the weight."
            )
        style = Format(config, eos_token_id=eos)
        labels = [style.slot_labels(item, config.num_latents) for item in encoded]
        return cls(weight, dict(zip(questions, labels, strict=True)))

    def rows(self, questions: Sequence[str]) -> Tensor:
        """Labels (B, L) of the latents of some questions."""
        return torch.tensor([self.of[question] for question in questions])


def at_placeholders(labels: Tensor, ids: Tensor, latent_id: int) -> Tensor:
    """Labels (B, T) of the columns of rows (B, T), from those of their latents (B, L); -100 elsewhere."""
    is_latent = ids == latent_id
    turn = (is_latent.cumsum(1) - 1).clamp_min(0)
    return torch.where(is_latent, labels.gather(1, turn), IGNORE)
