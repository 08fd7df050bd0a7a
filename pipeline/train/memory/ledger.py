"""Counts the bytes that a computation holds, while it runs on tensors without data.

Weights, activations and gradients are tensors on torch's meta device that say they are on the CPU (`FakeTensor`), so
that autocast treats them as it treats those. Integers and masks stay real: they steer how many passes there are and
which positions are scored. So the code of a training step runs as it is, and its activations are those that autograd
saves, whatever the architecture. What a kernel takes for itself while it runs is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ...system.compat import READ_NUMBER, FakeTensor, FakeTensorMode, TorchDispatchMode, storage_key

Kind = Literal["weights", "reference", "gradients", "optimizer", "activations", "keys_and_values", "logits"]
Bytes = dict[Kind, int]
CPU = torch.device("cpu")

# Indexing by a mask is refused without data; by the places where it is True it is the same.
BY_MASK = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


def without_data(model: nn.Module) -> FakeTensorMode:
    """Replaces weights and buffers of a model on the meta device by such that say they are on the CPU, in place.

    Returns:
        The mode that they belong to.
    """
    mode, made = FakeTensorMode(allow_non_fake_inputs=True), dict[int, Any]()
    for module in model.modules():
        weights = module.named_parameters(recurse=False, remove_duplicate=False)
        for name, tensor in [*weights, *module.named_buffers(recurse=False, remove_duplicate=False)]:
            if id(tensor) not in made:  # tied weights stay one
                made[id(tensor)] = _empty_like(tensor, mode)
            setattr(module, name, made[id(tensor)])
    return mode


def _empty_like(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    empty = FakeTensor(mode, tensor.detach().to("meta"), CPU)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


class Ledger(TorchDispatchMode):
    """Counts the bytes of all storages that live, by what they are, while it is entered.

    Attributes:
        most: What was held when most was held.
        most_beside_gradients: What was held when most was held besides gradients.
    """

    def __init__(self, mode: FakeTensorMode, widths: set[int]) -> None:
        """
        Args:
            mode: See `without_data`.
            widths: Of the output head and of its tiles: what is as wide are logits.
        """
        super().__init__()
        self.mode, self.widths = mode, widths
        self.forget_peaks()
        self._kind: Kind = "activations"
        self._held: Bytes = {}
        self._of: dict[int, tuple[Kind, int]] = {}  # kind and bytes of each storage

    def forget_peaks(self) -> None:
        """Begins to look for the peaks anew."""
        self.most: Bytes = {}
        self.most_beside_gradients: Bytes = {}

    @contextmanager
    def making(self, kind: Kind) -> Iterator[None]:
        """What is made inside the block is of this kind."""
        before, self._kind = self._kind, kind
        try:
            yield
        finally:
            self._kind = before

    def hold(self, tensors: Iterable[Tensor], kind: Kind, size: int | None = None) -> None:
        """Counts tensors that live already, or counts them as another kind.

        Args:
            size: Bytes of each that is not counted yet; None: those that it has.
        """
        for tensor in tensors:
            if storage_key(tensor) in self._of:
                self._move(storage_key(tensor), kind)
            else:
                self._enter(tensor, kind, size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # asked before most operations
            return CPU
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        if any(isinstance(value, FakeTensor) for value in flat):
            if func is READ_NUMBER:
                return 0.0  # a number that is logged or compared; none of them has data
            if func in BY_MASK:
                args = (args[0], _places(args[1]), *args[2:])
        is_new = not any(isinstance(value, Tensor) for value in flat)
        with self.mode if is_new and _makes_floats(kwargs) else nullcontext():
            result = func(*args, **kwargs)
        flat, form = tree_flatten(result)
        if any(_is_steering(value) for value in flat):  # an argmax: any token will do
            flat = [torch.zeros(value.shape, dtype=value.dtype) if _is_steering(value) else value for value in flat]
            result = tree_unflatten(flat, form)
        for value in flat:
            if isinstance(value, Tensor) and storage_key(value) not in self._of:
                is_logits = value.dim() > 0 and value.size(-1) in self.widths and self._kind == "activations"
                self._enter(value, "logits" if is_logits else self._kind)
        return result

    def _enter(self, tensor: Tensor, kind: Kind, size: int | None = None) -> None:
        key, storage = storage_key(tensor), tensor.untyped_storage()
        size = storage.nbytes() if size is None else size
        self._of[key] = kind, size
        weakref.finalize(storage, self._leave, key).atexit = False
        self._held[kind] = self._held.get(kind, 0) + size
        if sum(self._held.values()) > sum(self.most.values()):
            self.most = dict(self._held)
        if _beside_gradients(self._held) > _beside_gradients(self.most_beside_gradients):
            self.most_beside_gradients = dict(self._held)

    def _leave(self, key: int) -> None:
        kind, size = self._of.pop(key)
        self._held[kind] -= size

    def _move(self, key: int, kind: Kind) -> None:
        before, size = self._of[key]
        self._of[key] = kind, size
        self._held[before] -= size
        self._held[kind] = self._held.get(kind, 0) + size


def _makes_floats(options: dict[str, Any]) -> bool:
    """Whether a function that makes a tensor of none makes one of floating-point numbers, by its keyword arguments."""
    dtype = options.get("dtype")
    return dtype is not None and dtype.is_floating_point


def _is_steering(value: Any) -> bool:
    return isinstance(value, FakeTensor) and not value.dtype.is_floating_point


def _places(indices: Iterable[Tensor | None]) -> list[Tensor | None]:
    """Indices with the places where a mask is True in place of the mask."""
    found: list[Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool
        found += index.nonzero(as_tuple=True) if is_mask else [index]  # type: ignore[union-attr]
    return found


def _beside_gradients(held: Bytes) -> int:
    return sum(size for kind, size in held.items() if kind != "gradients")
