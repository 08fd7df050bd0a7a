"""Runs the decoder one block of columns after another: cache, masks and activation checkpointing in one place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from ...system.compat import (
    checkpointing_with_cache,
    checkpoints_reentrantly,
    is_compiled,
)
from ..config import ModelError
from ..noise.values import ValueShift
from .cache import PassCache
from .columns import Columns, Visibility
from .deferred import DeferredWeightGrads
from .masks import attention_mask
from .room import Room


class CachedDecoder:
    """A decoder without its head, and the columns that it keeps of what it has seen.

    Attributes:
        columns: What they hold.
        layers: (B, Q, d) hidden states after each layer in the latest call, where `keep_layers` asks for them.
    """

    def __init__(
        self,
        trunk: Any,
        batch_size: int,
        pass_widths: Sequence[int],
        spare: int = 0,
        keep_layers: bool = False,
        visibility: Visibility | None = None,
        room: Room | None = None,
        later_rows: int | None = None,
    ) -> None:
        """
        Args:
            batch_size: Rows of the first pass.
            pass_widths: Columns of each pass to come.
            spare: Columns to keep free for tokens after the passes.
            keep_layers: Keep the hidden states of all layers.
            visibility: What later columns see of these; None: all tokens.
            room: Columns that nothing sees any more are freed, and there is room for the others; None: all are kept.
            later_rows: Rows of the passes after the first, where a `select` makes others of them.

        Raises:
            ModelError: Activation checkpointing that cannot be combined with latents.
        """
        self.trunk, self.config = trunk, trunk.config.get_text_config()
        self.visibility, self.room = visibility, room
        self.capacity = sum(pass_widths) + spare if room is None else room.capacity(0)
        self.cache = PassCache(self.config.num_hidden_layers, self.capacity)
        self.checkpointing = LayerCheckpointing.of(trunk)
        self.deferred: DeferredWeightGrads | None = None
        # A recomputed layer must do in the backward what it did in the forward. A compiler cannot see the collecting.
        if torch.is_grad_enabled() and self.checkpointing is None and not is_compiled(trunk):
            rows = [batch_size, *[batch_size if later_rows is None else later_rows] * (len(pass_widths) - 1)]
            self.deferred = DeferredWeightGrads(trunk, [n * width for n, width in zip(rows, pass_widths, strict=True)])
        self.calls = 0
        self.keep_layers, self.layers = keep_layers, ()
        self.columns = Columns.none(batch_size, trunk.device, with_pieces=visibility is not None)

    def __call__(
        self,
        embeds: Tensor,
        is_token: Tensor,
        position_ids: Tensor,
        is_dense: bool = False,
        shift: ValueShift | None = None,
        is_latent: Tensor | None = None,
    ) -> Tensor:
        """Last hidden states (B, Q, d) of the next columns.

        Args:
            embeds: (B, Q, d).
            is_token: (B, Q) False at padding.
            position_ids: (B, Q).
            is_dense: The caller knows that no column is padding, so the device need not be asked.
            shift: Moves the values of these columns before they are written and read.
            is_latent: (B, Q) True at latents; None: there are none.
        """
        if self.room is not None and self.room.is_short(self.calls, self.columns.size, self.capacity):
            self._forget(self.room)
        self.columns = self.columns.append(is_token, is_latent)
        mask = None  # a causal block without padding: attention has faster kernels when it is given no mask
        if not (self.calls == 0 and is_dense and is_latent is None):
            mask = attention_mask(self.config, self.columns, embeds.size(1), embeds.dtype, self.visibility)
        cache = self.cache
        cache.move_values(shift)
        with self._settings():
            output = self.trunk(
                inputs_embeds=embeds,
                attention_mask=mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=False,  # it is written anyway; True would make checkpointed layers warn
                output_hidden_states=self.keep_layers,
            )
        if not cache.is_written:
            raise ModelError(
                f"{type(self.trunk).__name__} does not keep keys and values of all its layers in the cache it is "
                "given, so earlier tokens would be forgotten. Choose another model."
            )
        self.cache = cache.next()
        self.calls += 1
        if self.keep_layers:
            self.layers = output.hidden_states[1:]
        return output.last_hidden_state

    def _settings(self) -> AbstractContextManager[None]:
        if self.checkpointing is not None:
            return self.checkpointing.keeping_the_cache()
        return self.deferred.during(self.calls) if self.deferred is not None else nullcontext()

    def _forget(self, room: Room) -> None:
        """Frees columns that nothing sees any more. Those in sight move to the end of the columns that are left."""
        assert self.visibility is not None and self.columns.pieces is not None
        is_seen = self.columns.is_token & self.visibility.still_seen(self.columns.pieces)
        index = is_seen.int().argsort(dim=1, stable=True)[:, -room.in_sight[self.calls] :]
        self.columns, self.capacity = self.columns.keep(index, is_seen), room.capacity(self.calls)
        self.cache.keep(index, self.capacity)

    def hide(self, start: int, end: int) -> None:
        """Makes columns invisible to all later ones."""
        self.columns = self.columns.hide(start, end)

    def select(self, rows: Tensor) -> None:
        """Keeps rows (N,) of the batch, which may repeat."""
        self.columns = self.columns.select(rows)
        self.cache.select(rows)


@dataclass(frozen=True)
class LayerCheckpointing:
    """Activation checkpointing of a trunk whose layers keep their cache.

    Transformers takes the cache away from checkpointed layers, since a recomputation would write an ordinary cache
    twice. PassCache may be written twice. The settings matter in the forward only: a layer is recomputed from the
    arguments that it was called with.

    Attributes:
        layers: Layers that are recomputed.
        others: Other modules with a checkpointing flag. GPT-2 as a whole drops the cache where its flag is set.
    """

    layers: list[Any]
    others: list[Any]

    @classmethod
    def of(cls, trunk: Any) -> LayerCheckpointing | None:
        """The checkpointing that is on, or None.

        Raises:
            ModelError: It is not done layer by layer, or with `use_reentrant=True`.
        """
        active = [module for module in trunk.modules() if getattr(module, "gradient_checkpointing", False)]
        if not (active and trunk.training):
            return None
        layers = [module for module in active if isinstance(module, GradientCheckpointingLayer)]
        if not layers:
            raise ModelError(
                f"{type(trunk).__name__} does not checkpoint its activations layer by layer, which latents need. "
                "Set gradient_checkpointing: false in the stage's trainer section."
            )
        if torch.is_grad_enabled() and checkpoints_reentrantly(layers[0]):
            raise ModelError(
                "Reentrant gradient checkpointing gives wrong gradients with a cache. Set "
                "gradient_checkpointing_kwargs: {use_reentrant: false} in the stage's trainer section."
            )
        return cls(layers, [module for module in active if not isinstance(module, GradientCheckpointingLayer)])

    @contextmanager
    def keeping_the_cache(self) -> Iterator[None]:
        for module in self.others:
            module.gradient_checkpointing = False
        try:
            with checkpointing_with_cache(self.layers):
                yield
        finally:
            for module in self.others:
                module.gradient_checkpointing = True
