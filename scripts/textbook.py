"""The textbook way to run latents, as the baseline of `bench_engine.py`.

It computes what the engine computes, in the style of published research code: the embeddings of the whole batch are
taken apart and put together again at every pass, logits are computed for every token of every pass, and answers are
generated one prompt at a time without a cache. Rows have their latents in the same columns.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


def textbook_forward(model: PreTrainedModel, input_ids: Tensor, latent_id: int) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and the embeddings (B, T, d) with the latents in place."""
    embeds = model.get_input_embeddings()(input_ids)
    columns = (input_ids[0] == latent_id).nonzero().squeeze(1).tolist()
    cache, logits, start = DynamicCache(config=model.config), [], 0
    for end in [*columns, input_ids.size(1)]:
        positions = torch.arange(start, end)[None].expand(len(input_ids), -1)
        output = model(
            inputs_embeds=embeds[:, start:end],
            attention_mask=torch.ones_like(input_ids[:, :end]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            output_hidden_states=True,
        )
        logits.append(output.logits)
        if end < input_ids.size(1):
            pieces = [[embeds[row, column] for column in range(embeds.size(1))] for row in range(len(embeds))]
            for row, states in enumerate(output.hidden_states[-1]):
                pieces[row][end] = states[-1]
            embeds = torch.stack([torch.stack(row) for row in pieces])
        start = end
    return torch.cat(logits, 1), embeds


def textbook_step(model: PreTrainedModel, input_ids: Tensor, labels: Tensor, latent_id: int) -> Tensor:
    """Forward and backward of one training step; returns the loss."""
    logits, _ = textbook_forward(model, input_ids, latent_id)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    loss.backward()
    return loss


@torch.no_grad()
def textbook_generate(model: PreTrainedModel, prompt: Tensor, latent_id: int, num_tokens: int) -> list[int]:
    """Greedy answer to one prompt (1, T)."""
    logits, embeds = textbook_forward(model, prompt, latent_id)
    answer = [int(logits[0, -1].argmax())]
    while len(answer) < num_tokens:
        token = model.get_input_embeddings()(torch.tensor([[answer[-1]]]))
        embeds = torch.cat([embeds, token], 1)
        answer.append(int(model(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax()))
    return answer
