"""Keys and values of several differentiable passes, written once.

Transformers' DynamicCache copies all keys and values at every pass: k latents after P tokens cost O(k·P) memory in
training. Its `update` may not run twice either, and activation checkpointing runs it twice. Here every layer owns one
buffer for all columns. A pass writes its own columns and reads all columns up to them. What a pass saved for its
backward stays valid, because no column changes after it was read. Writing the same columns twice is harmless.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Append(torch.autograd.Function):
    """(past (B, h, P, e), new (B, h, Q, e), buffer) -> (B, h, P + Q, e), a view of the buffer.

    `past` is an earlier view of the same buffer. The views are made from `.data`: they share memory but no version
    counter, so autograd does not mistake the columns written later for a change of the columns it saved.
    """

    @staticmethod
    def forward(ctx: Any, past: Tensor | None, new: Tensor, buffer: Tensor) -> Tensor:
        ctx.start = start = 0 if past is None else past.size(2)
        end = start + new.size(2)
        buffer.data[:, :, start:end] = new
        return buffer.data[:, :, :end]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        return grad[:, :, : ctx.start] if ctx.start else None, grad[:, :, ctx.start :], None


class PassLayer(CacheLayerMixin):
    """One layer's keys and values during one pass."""

    def __init__(self, capacity: int, buffers: list[Tensor] | None = None, past: list[Tensor] | None = None) -> None:
        super().__init__()
        self.move: Callable[[Tensor], Tensor] | None = None
        self.capacity, self.past = capacity, past
        self.buffers: list[Tensor] = [] if buffers is None else buffers
        self.present: list[Tensor] | None = None
        self.is_written = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for states in (key_states, value_states):
            self.buffers.append(states.new_empty(*states.shape[:2], self.capacity, states.size(3)))

    @torch.compiler.disable  # a compiler may not move what is written into buffers
    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.buffers:
            self.lazy_initialization(key_states, value_states)
        if self.move is not None:
            value_states = self.move(value_states)
        past: Sequence[Tensor | None] = self.past or (None, None)
        keys, values = (
            _Append.apply(before, new, buffer)
            for before, new, buffer in zip(past, (key_states, value_states), self.buffers, strict=True)
        )
        if not self.is_written:  # a recomputation must not keep its graph alive
            self.present, self.is_written = [keys, values], True
        return keys, values

    def following(self) -> PassLayer:
        """The layer in the next pass. This one forgets its keys and values, which hold the graph of its pass."""
        following = PassLayer(self.capacity, self.buffers, self.present)
        self.present = None
        return following

    def rewritten(self, change: Callable[[Tensor], Tensor], capacity: int | None = None) -> PassLayer:
        """The layer with other keys and values behind it, in new buffers."""
        assert self.past is not None
        own = PassLayer(self.capacity if capacity is None else capacity)
        own.update(*(change(states) for states in self.past))
        return own.following()

    def get_seq_length(self) -> int:
        return self.past[0].size(2) if self.past else 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class PassCache(Cache):
    """The cache of one pass. `next` gives the cache of the following pass, once. A recomputation may write it again."""

    def __init__(self, num_layers: int, capacity: int) -> None:
        """
        Args:
            capacity: Columns that all passes together may write.
        """
        super().__init__(layers=[PassLayer(capacity) for _ in range(num_layers)])

    @classmethod
    def _of(cls, layers: list[PassLayer]) -> PassCache:
        cache = cls(0, 0)
        cache.layers = layers
        return cache

    @property
    def is_written(self) -> bool:
        """Whether the pass wrote keys and values in every layer."""
        return all(layer.is_written for layer in self.layers)

    def move_values(self, shift: Callable[[int, Tensor], Tensor] | None) -> None:
        """Changes the values (B, h, Q, e) that the pass will write, by a function of layer index and values."""
        for index, layer in enumerate(self.layers):
            layer.move = functools.partial(shift, index) if shift is not None else None

    def next(self) -> PassCache:
        """The cache of the next pass, behind the columns of this one."""
        return self._of([layer.following() for layer in self.layers])

    def select(self, rows: Tensor) -> None:
        """Keeps rows (N,) of the batch, which may repeat, in new buffers; layer by layer, as `keep`."""
        for index in range(len(self.layers)):
            self.layers[index] = self.layers[index].rewritten(lambda states: states[rows])

    def keep(self, columns: Tensor, capacity: int) -> None:
        """Keeps columns (B, M) of each row, in new buffers; layer by layer, so that few are there twice.

        Args:
            capacity: Of the new buffers.
        """

        def kept(states: Tensor) -> Tensor:  # (B, h, P, e) -> (B, h, M, e)
            return states.gather(2, columns[:, None, :, None].expand(-1, states.size(1), -1, states.size(3)))

        for index in range(len(self.layers)):
            self.layers[index] = self.layers[index].rewritten(kept, capacity)
