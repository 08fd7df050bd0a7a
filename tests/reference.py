"""Naive versions of what the package does fast: no cache, no batch, one row and one token at a time."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F


def latent_forward(model, ids, think, epsilon=None, apply_noise=None):
    """Hidden states (T, d) and latents of one unpadded row, recomputing the whole prefix for every latent."""
    latent_id = model.latent_config.token_ids[1]
    inputs = list(model.get_input_embeddings()(torch.tensor(ids)))
    latents = []
    for position, token in enumerate(ids):
        if token == latent_id:
            prefix = torch.stack(inputs[:position])[None]
            last = model.base_model(inputs_embeds=prefix, use_cache=False).last_hidden_state[:, -1]
            latent = think(last, model.latent_config)
            if epsilon is not None:
                latent = apply_noise(latent, epsilon[len(latents)][None])
            latents.append(latent[0])
            inputs[position] = latent[0]
    hidden = model.base_model(inputs_embeds=torch.stack(inputs)[None], use_cache=False).last_hidden_state[0]
    return hidden, latents


def latent_loss(model, rows, labels, think, supervision_weight):
    """The training loss of a batch of unpadded rows, summed label by label."""
    latent_id = model.latent_config.token_ids[1]
    total, count = torch.zeros(()), 0
    logits = []
    for ids, row_labels in zip(rows, labels, strict=True):
        hidden, _ = latent_forward(model, ids, think)
        row_logits = model.get_output_embeddings()(hidden)
        logits.append(row_logits)
        for position in range(1, len(ids)):
            if row_labels[position] != -100:
                weight = supervision_weight if ids[position] == latent_id else 1.0
                target = torch.tensor(row_labels[position])
                total = total + weight * F.cross_entropy(row_logits[position - 1], target)
                count += 1
    return total / count, logits


def pass_at_k(right, k):
    """Share of all k-subsets of the samples that hold a right one."""
    subsets = list(itertools.combinations(right, k))
    return sum(any(subset) for subset in subsets) / len(subsets)
