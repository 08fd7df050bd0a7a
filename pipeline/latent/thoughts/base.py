"""Thought sources: how the next input embedding is made from the last hidden state.

To add one, subclass `ThoughtSource` and decorate it with `@register_thought_source("name")`. Keyword arguments of its
constructor are the keys of `latent.thought_options`. Its parameters, if it has any, are trained and saved with the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..config import ModelError, check_options
from ..engine.sharded_weights import whole


class Mixture(NamedTuple):
    """A mixture of token embeddings.

    Attributes:
        logits: (..., k) of the k tokens.
        embeds: (..., k, d) their embeddings.
        temperature: The shares are softmax(logits / temperature).
    """

    logits: Tensor
    embeds: Tensor
    temperature: float

    def mean(self) -> Tensor:
        """(..., d) the embeddings in these shares."""
        shares = (self.logits / self.temperature).softmax(-1)
        return (shares[..., None].to(self.embeds.dtype) * self.embeds).sum(-2)


class Thought(NamedTuple):
    """What a source makes of a hidden state.

    Attributes:
        latent: (..., d) the vector to feed back, before noise.
        std: (..., d) how far noise of the kind `learned` may move it, or None.
        mixture: What the latent is the mean of, for noise on the shares, or None.
    """

    latent: Tensor
    std: Tensor | None = None
    mixture: Mixture | None = None


class ThoughtSource(nn.Module):
    """Makes latents (..., d) from last hidden states (..., d).

    Attributes:
        is_recurrent: Whether the latent depends on the hidden state. If not, no pass is needed: the placeholder is an
            ordinary token.
        gives: Parts of a `Thought` besides the latent that it gives, for kinds of noise that need them.
    """

    is_recurrent: ClassVar[bool] = True
    gives: ClassVar[tuple[str, ...]] = ()

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        """
        Args:
            hidden: (..., d) after the final norm.
            model: The reasoner, for its embeddings, its head and its latent section.
        """
        raise NotImplementedError


THOUGHT_SOURCES: dict[str, type[ThoughtSource]] = {}


def register_thought_source(name: str) -> Callable[[type[ThoughtSource]], type[ThoughtSource]]:
    """Registers a thought source under the name that recipes use."""

    def decorate(cls: type[ThoughtSource]) -> type[ThoughtSource]:
        THOUGHT_SOURCES[name] = cls
        return cls

    return decorate


def build_source(name: str, options: dict[str, Any], hidden_size: int) -> ThoughtSource:
    """A source by name.

    Raises:
        ModelError: Unknown name or option, or a value the source refuses.
    """
    if name not in THOUGHT_SOURCES:
        raise ModelError(f"Unknown thought source {name!r}. Choose one of {sorted(THOUGHT_SOURCES)}.")
    check_options("thought_options", options, THOUGHT_SOURCES[name], f"thought source {name!r}")
    try:
        return THOUGHT_SOURCES[name](hidden_size, **options)
    except (TypeError, ValueError) as error:
        raise ModelError(f"thought_options={options} of {name!r}: {error}") from error


def suppress(logits: Tensor, token_ids: tuple[int, int, int]) -> Tensor:
    """Logits (..., V) in which the latent special tokens cannot occur: they are placed by us, never sampled."""
    index = torch.tensor(token_ids, device=logits.device)
    return logits.index_fill(-1, index, torch.finfo(logits.dtype).min)


@torch.no_grad()
def embedding_rms(embedding: nn.Embedding) -> float:
    """Root mean square of all input embeddings as the model is fed them, some architectures scaling the matrix.

    Where ZeRO-3 has sharded the matrix (V, d), it is gathered first.
    """
    weight = embedding.weight
    with whole([weight]):
        ids = torch.arange(weight.size(0), device=weight.device)
        squares = [embedding(part).float().pow(2).mean(-1) for part in ids.split(4096)]  # (V,) in parts
    return torch.cat(squares).mean().sqrt().item()
