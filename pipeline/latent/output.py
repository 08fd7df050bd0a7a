"""What a forward over latents returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class LatentOutput(ModelOutput):
    """Output of a forward over latents.

    Attributes:
        loss: Weighted cross-entropy in nats, summed over supervised positions and divided by `num_items_in_batch`
            (default: their count). A label on a latent placeholder, and what a supervision adds, counts with
            `supervision_weight`.
        logits: (N, V) at the N supervised positions in row-major order when labels are given, else (B, T, V).
        logps: (N,) log-probs in nats of the labels in row-major order, where they are scored in place of `loss`.
        entropies: (N,) in nats of what these labels are drawn from, with `logps`.
        latents: (B, L, d) the vectors fed back, zero beyond a row's count.
        token_loss: Mean cross-entropy of labels on tokens, detached.
        latent_loss: Mean cross-entropy of labels on latent placeholders, or the loss of the supervision module for each
            label on a token, detached.
        supervision_loss: Mean loss of the supervision's own labels, with its gradient, where it counts by those.
        stop_loss: Mean cross-entropy of the stop head over latents, detached; None without one.
        stop_logps: (B, L - 1) log-probs in nats of the stop head's decisions, with `logps`; L latents at most.
        latent_logps: (B, L) log-density in nats of given latents, 0 beyond a row's count.
        latent_rms: (B, L) root mean square of the latents before noise, detached, where latents are given.
        state_values: (B, T) value of the state after each column, where there is a value head; of no use at padding.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    logps: Tensor | None = None
    entropies: Tensor | None = None
    latents: Tensor | None = None
    token_loss: Tensor | None = None
    latent_loss: Tensor | None = None
    supervision_loss: Tensor | None = None
    stop_loss: Tensor | None = None
    stop_logps: Tensor | None = None
    latent_logps: Tensor | None = None
    latent_rms: Tensor | None = None
    state_values: Tensor | None = None
