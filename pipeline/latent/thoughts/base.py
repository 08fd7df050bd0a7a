"""Thought sources: how the next input embedding is made from the last hidden state.

To add one, subclass `ThoughtSource` and decorate it with `@register("name")`. Keyword arguments of its constructor are
the keys of `latent.thought_options`; its parameters, if it has any, are trained and saved with the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..config import ModelError, check_options
from ..engine.precision import precise
from ..engine.zero import whole


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


def register(name: str) -> Callable[[type[ThoughtSource]], type[ThoughtSource]]:
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


@register("raw")
class Raw(ThoughtSource):
    """z = h: the last hidden state as it is (Coconut, arXiv 2412.06769, section 3)."""

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        return Thought(hidden)


@register("norm_matched")
class NormMatched(ThoughtSource):
    """z = h · rms(E) / rms(h): the hidden state, rescaled to the norm of the token embeddings.

    The layers of the model expect inputs of the embeddings' size; a hidden state after the final norm can be many
    times larger. The gradient flows through rms(h).
    """

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        rms = precise(hidden).pow(2).mean(-1, keepdim=True).clamp_min(1e-12).sqrt()  # (..., 1)
        return Thought(hidden * (model.latent_config.embedding_rms / rms).to(hidden.dtype))


@register("projection")
class Projection(ThoughtSource):
    """z = rms(E) · LayerNorm(W₂ GELU(W₁ h)): a learned map (CODI, arXiv 2502.21074), at the embeddings' norm.

    Args:
        width: Size of the hidden layer. Default: that of the hidden state.
    """

    def __init__(self, hidden_size: int, width: int | None = None) -> None:
        super().__init__(hidden_size)
        width = hidden_size if width is None else width
        if width < 1:
            raise ValueError(f"width={width} must be at least 1")
        self.map = nn.Sequential(
            nn.Linear(hidden_size, width), nn.GELU(), nn.Linear(width, hidden_size), nn.LayerNorm(hidden_size)
        )

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        return Thought(self.map(hidden) * model.latent_config.embedding_rms)


@register("gaussian_head")
class GaussianHead(Projection):
    """N(mu, sigma²): mu as `projection`, log sigma = log rms(E) + clamp(W h, min_log_std, 0) (CoLaR, arXiv 2505.16552).

    Without noise the latent is mu. Noise of the kind `learned` moves it by sigma · epsilon, with gradient into sigma.
    """

    gives = ("std",)

    def __init__(self, hidden_size: int, width: int | None = None, min_log_std: float = -5.0) -> None:
        super().__init__(hidden_size, width)
        if min_log_std >= 0:
            raise ValueError(f"min_log_std={min_log_std} must be below 0")
        self.min_log_std = min_log_std
        self.log_std = nn.Linear(hidden_size, hidden_size)
        # Begin in the middle of the range, where the clamp passes a gradient to both sides.
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, min_log_std / 2)

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        log_std = self.log_std(hidden).clamp(self.min_log_std, 0.0)
        return Thought(super().forward(hidden, model).latent, log_std.exp() * model.latent_config.embedding_rms)


@register("soft_vocabulary")
class SoftVocabulary(ThoughtSource):
    """z = Σ p_v E(v) over the top_k most likely tokens, p = softmax(logits / temperature) among them.

    Soft Thinking (arXiv 2505.15778) and the mixtures of arXiv 2509.19170. The latent stays in the hull of the token
    embeddings. The latent special tokens take no part.
    """

    gives = ("mixture",)

    def __init__(self, hidden_size: int, top_k: int = 10, temperature: float = 1.0) -> None:
        super().__init__(hidden_size)
        if top_k < 1 or temperature <= 0:
            raise ValueError(f"top_k={top_k} must be at least 1 and temperature={temperature} above 0")
        self.top_k, self.temperature = top_k, temperature

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        logits = precise(suppress(model._head(hidden), model.latent_config.token_ids))  # (..., V)
        values, tokens = logits.topk(min(self.top_k, logits.size(-1)), dim=-1)  # (..., k)
        mixture = Mixture(values, model.get_input_embeddings()(tokens), self.temperature)
        return Thought(mixture.mean(), mixture=mixture)


@register("pause")
class Pause(ThoughtSource):
    """The control without recurrence: the placeholder keeps its own learned embedding (pause tokens, arXiv 2310.02226).

    The whole sequence is one parallel pass.
    """

    is_recurrent = False


@register("pause_multi")
class PauseMultiPass(ThoughtSource):
    """The same control run as latents are, one pass a placeholder.

    Attention is causal, so it computes what `pause` computes, up to rounding: as many sequential passes as latents
    have, and nothing handed from one to the next but keys and values.
    """

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        token = torch.full(hidden.shape[:-1], model.latent_config.token_ids[1], device=hidden.device)
        return Thought(model.get_input_embeddings()(token))


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
