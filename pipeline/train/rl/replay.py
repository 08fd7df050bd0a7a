"""Labels, log-probs and entropies of the answers of rollouts."""

from __future__ import annotations

from torch import Tensor

from ...latent.thoughts import suppress


def answer_labels(ids: Tensor, mask: Tensor, columns: int) -> Tensor:
    """Labels (B, T) on the answer tokens, which are in the last columns."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-columns] = -100
    return labels


def answer_logps(
    logits: Tensor, ids: Tensor, mask: Tensor, columns: int, temperature: float, special: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropies (B, A) in nats from logits (N, V) of the answer tokens in row-major order.

    Args:
        special: The latent tokens, which are never sampled.
    """
    labels = answer_labels(ids, mask, columns)[:, -columns:]
    # Divided first: below 1 it would make the suppressed logits infinite, and their entropy no number.
    distribution = suppress(logits.float() / temperature, special).log_softmax(-1)
    is_answer = labels != -100
    chosen = distribution.gather(1, labels[is_answer][:, None]).squeeze(1)
    entropy = -(distribution.exp() * distribution).sum(-1)
    empty = distribution.new_zeros(is_answer.shape)
    return empty.masked_scatter(is_answer, chosen), empty.masked_scatter(is_answer, entropy)
