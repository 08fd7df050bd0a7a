"""The loss of a forward over latents, from its hidden states and labels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batch import Batch
from .engine.precision import precise
from .label_scores import Score, label_scores
from .output import LatentOutput
from .stopping import stop_logits, stop_logps
from .supervision import IGNORE, States


def loss_over_latents(
    model: Any,
    states: States,
    batch: Batch,
    labels: Tensor,
    num_items_in_batch: Tensor | int | None,
    supervision_inputs: dict[str, Tensor] | None,
) -> LatentOutput:
    """Cross-entropy at the supervised positions, and the losses of the modules that the reasoner has.

    Logits are computed at the supervised positions only.

    Args:
        labels: (B, T) position t is predicted from the position before it; -100 is ignored.
        num_items_in_batch: What the sum of the losses is divided by; None: the number of labels.
        supervision_inputs: What the supervision module reads; None: it is not run. Where it counts labels of its own,
            `num_items_in_batch` is their number in all micro-batches.
    """
    config = model.latent_config
    rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    target = labels[rows, columns + 1]  # (N,)
    items = max(len(target), 1) if num_items_in_batch is None else num_items_in_batch
    logits = model.head_logits(states.hidden[rows, states.packed_column[rows, columns]])  # (N, V)
    losses = F.cross_entropy(precise(logits), target, reduction="none")  # (N,)
    on_latent = batch.input_ids[rows, columns + 1] == config.token_ids[1]
    total = (losses * torch.where(on_latent, config.supervision_weight, 1.0)).sum()
    detached = losses.detach()
    output = LatentOutput(
        logits=logits,
        latents=states.latents,
        token_loss=(detached * ~on_latent).sum() / (~on_latent).sum().clamp_min(1),
        latent_loss=(detached * on_latent).sum() / on_latent.sum().clamp_min(1),
    )
    if model.supervision is not None and supervision_inputs is not None:
        added = model.supervision(model, states, supervision_inputs)
        own = model.supervision.count(supervision_inputs)
        if own is None:
            output.latent_loss = added.detach() / max(len(target), 1)
        else:
            output.supervision_loss = added / own.clamp_min(1)
            output.latent_loss = output.supervision_loss.detach()
            added = added * (items / supervision_inputs.get("num_items_in_batch", own).clamp_min(1))
        total = total + config.supervision_weight * added
    if model.value_head is not None:
        output.state_values = model.value_head(in_batch_order(states))
    if model.stop_head is not None:
        stop = stop_losses(model.stop_head, states, batch.is_latent)
        total = total + stop.sum()
        output.stop_loss = stop.detach().sum() / max(len(stop), 1)
    output.loss = total / items
    return output


def scores_over_latents(
    model: Any,
    states: States,
    batch: Batch,
    labels: Tensor,
    score: Score,
    supervision_inputs: dict[str, Tensor] | None,
) -> LatentOutput:
    """Log-probs of the labels and of the stop head's decisions, state values, and the loss of the supervision's labels.

    Args:
        labels: (B, T) as in `loss_over_latents`.
        supervision_inputs: Of a supervision that counts labels of its own; None: it is not run.
    """
    rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
    hidden = states.hidden[rows, states.packed_column[rows, columns]]  # (N, d)
    logps, entropies = label_scores(model, hidden, labels[rows, columns + 1], score)
    output = LatentOutput(logps=logps, entropies=entropies, latents=states.latents)
    if model.supervision is not None and supervision_inputs is not None:
        own = model.supervision.count(supervision_inputs)
        output.supervision_loss = model.supervision(model, states, supervision_inputs) / own.clamp_min(1)
    if model.value_head is not None:
        output.state_values = model.value_head(in_batch_order(states))
    if model.stop_head is not None:
        most = model.latent_config.num_latents
        output.stop_logps = stop_logps(model.stop_head, states, batch.is_latent, most)
    return output


def stop_losses(head: nn.Module, states: States, is_latent: Tensor) -> Tensor:
    """Binary cross-entropy (N,) of the stop head at each latent: a thought is complete at its last one."""
    rows, columns = is_latent.nonzero(as_tuple=True)
    is_last = ~F.pad(is_latent, (0, 1))[rows, columns + 1]
    logits = stop_logits(head, states.hidden[rows, states.packed_column[rows, columns]])
    return F.binary_cross_entropy_with_logits(logits, is_last.to(logits), reduction="none")


def in_batch_order(states: States) -> Tensor:
    """Hidden states (B, T, d) of the columns of the batch; those at padding mean nothing."""
    index = states.packed_column[..., None].expand(-1, -1, states.hidden.size(-1))
    return states.hidden.gather(1, index)
