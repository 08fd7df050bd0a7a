"""Attention masks of packed columns.

Transformers counts a sliding window in columns. Packed rows have padding between their tokens, so the window is counted
in tokens here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...system.compat import attention_implementation
from ..config import ModelError
from .columns import Columns, Visibility

FULL, SLIDING = "full_attention", "sliding_attention"


def attention_kinds(config: Any) -> list[str]:
    """The kinds of attention among a decoder's layers.

    Raises:
        ModelError: A kind, or an attention implementation, for which no mask can be made here.
    """
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None:
        layer_types = [FULL if getattr(config, "sliding_window", None) is None else SLIDING]
    kinds = sorted(set(layer_types))
    # GPT-Neo lists its layers under another name, and cuts its windows out of columns.
    kinds += sorted(set(getattr(config, "attention_layers", ())) - {"global"})
    unknown = [kind for kind in kinds if kind not in (FULL, SLIDING)]
    if unknown:
        raise ModelError(
            f"The model has layers of the kinds {unknown}. Latents are exact for {FULL} and {SLIDING} only; "
            "choose another model."
        )
    implementation = attention_implementation(config)
    if implementation not in ("eager", "sdpa"):
        raise ModelError(
            f"The model uses the attention implementation {implementation!r}, which takes no mask of its own per row. "
            'Load it with attn_implementation="sdpa" or "eager".'
        )
    return kinds


def attention_mask(
    config: Any, columns: Columns, num_queries: int, dtype: torch.dtype, visibility: Visibility | None = None
) -> Any:
    """The attention mask of the last `num_queries` columns. A column sees earlier tokens of its row, and itself.

    Args:
        config: Of the decoder.
        dtype: Of the hidden states; eager attention adds the mask to its scores.
        visibility: Hides some of the earlier tokens.

    Returns:
        (B, 1, Q, S), True where attention is allowed; for eager attention 0 there and the lowest number elsewhere.
        Where layers differ, a dict of such masks by kind of layer. Decoders take a finished mask in these forms.
    """
    size, rank = columns.size, columns.rank
    places = torch.arange(size, device=rank.device)
    queries = places[size - num_queries :]
    causal = columns.is_token[:, None] & (places <= queries[:, None])  # (B, Q, S)
    if visibility is not None:
        assert columns.pieces is not None
        causal = causal & visibility.between(columns.pieces, num_queries)
    masks = {}
    for kind in attention_kinds(config):
        allowed = causal
        if kind == SLIDING:
            distance = rank[:, size - num_queries :, None] - rank[:, None]
            allowed = causal & (distance < config.sliding_window)
        allowed = (allowed | (places == queries[:, None]))[:, None]  # padding attends to itself, which is finite
        if attention_implementation(config) == "eager":
            lowest = torch.tensor(torch.finfo(dtype).min, dtype=dtype, device=allowed.device)
            masks[kind] = torch.where(allowed, lowest.new_zeros(()), lowest)
        else:
            masks[kind] = allowed
    return masks if len(masks) > 1 else next(iter(masks.values()))


def whole_mask(
    trunk: Any, attention_mask_2d: Tensor, is_latent: Tensor, visibility: Visibility | None, dtype: torch.dtype
) -> Any:
    """The attention mask of one pass over whole rows, in which placeholders count as the latents they stand for.

    Args:
        attention_mask_2d: (B, T) 1 at tokens, 0 at padding; returned as it is where nothing is hidden.
        is_latent: (B, T) True at placeholders.
        dtype: Of the embeddings.
    """
    if visibility is None:
        return attention_mask_2d
    columns = Columns.none(len(is_latent), is_latent.device, with_pieces=True).append(
        attention_mask_2d.bool(), is_latent
    )
    return attention_mask(trunk.config.get_text_config(), columns, columns.size, dtype, visibility)
