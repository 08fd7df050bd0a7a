"""Checks, when a model first becomes a reasoner, that packed passes through a cache compute what the model computes.

Most decoders do. Some would be silently wrong: attention in both directions, a recurrent state that padding disturbs,
positions taken from columns, layers that see the token ids, a head with a step of its own. So the model itself is
asked, on a dozen tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...system.compat import is_sharded
from ..config import ModelError
from .layout import plan_passes, positions_of
from .packed import Draws, Packed
from .passes import run_passes
from .precision import computing_exactly

# Two rows; the tokens at these columns play the latents. 0 is padding.
COLUMNS = ((3, 4, 7), (6,))
LENGTHS = (9, 8)
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
ROUGH = 5e-2  # half precision


@torch.no_grad()
def check_exact(model: PreTrainedModel) -> None:
    """Compares logits of a ragged packed batch with those of the plain model, row by row.

    Skipped where the weights are not at hand: on the meta device, or sharded by ZeRO-3.

    Raises:
        ModelError: They differ, or the model cannot be run this way.
    """
    weight = model.get_input_embeddings().weight
    if weight.is_meta or is_sharded(weight):
        return
    was_training = model.training
    model.eval()
    try:
        rows = _rows(model)
        with computing_exactly(model):
            expected = [model(input_ids=row[None], use_cache=False).logits[0] for row in rows]
            found = _packed_logits(model, rows)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise ModelError(
            f"{type(model).__name__} cannot be run pass by pass with a cache and masks of our own: {error}. "
            "Choose a decoder-only model such as GPT-2, Llama or Qwen."
        ) from error
    finally:
        model.train(was_training)
    for ours, theirs in zip(found, expected, strict=True):
        difference = ((ours - theirs).norm() / theirs.norm()).item()
        if not difference <= TOLERANCE.get(weight.dtype, ROUGH):
            raise ModelError(
                f"{type(model).__name__} computes other logits when its tokens are run in several passes through a "
                f"cache (relative difference {difference:.2g}). Models whose attention looks ahead, that keep a "
                "recurrent state, or take positions from columns cannot be latent reasoners. Choose another one."
            )


def _rows(model: PreTrainedModel) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    size = model.get_input_embeddings().weight.size(0)
    latent = model.latent_config.token_ids[1]
    rows = [torch.randint(size, (length,), generator=generator) for length in LENGTHS]
    return [torch.where(row == latent, (latent + 1) % size, row).to(model.device) for row in rows]


def _packed_logits(model: PreTrainedModel, rows: list[Tensor]) -> list[Tensor]:
    """Logits (T, V) of each row, run in passes whose latents are the embeddings of the tokens they stand for."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    is_latent = torch.zeros_like(ids, dtype=torch.bool)
    for row, columns in enumerate(COLUMNS):
        is_latent[row, list(columns)] = True
    layout = plan_passes(is_latent, mask, int(is_latent.sum(1).max()))
    embed = model.get_input_embeddings()
    stand_ins = torch.nn.utils.rnn.pad_sequence(
        [embed(row[list(columns)]) for row, columns in zip(rows, COLUMNS, strict=True)], batch_first=True
    )
    positions = positions_of(mask).gather(1, layout.source)
    # The cells of the latents must not be read: their place is taken by what `think` returns.
    cells = torch.where(layout.is_latent, 0, ids.gather(1, layout.source))
    packed = Packed(layout, embed(cells), positions)
    hidden = run_passes(model.base_model, _stand_in, packed, Draws(stand_ins)).hidden
    places = [layout.packed_column[row, : len(tokens)] for row, tokens in enumerate(rows)]
    return [model.head_logits(states[place]) for states, place in zip(hidden, places, strict=True)]


def _stand_in(hidden: Tensor, epsilon: Tensor | None, embedding: Tensor | None) -> Tensor:
    assert epsilon is not None
    return epsilon
