"""Passes over weights that ZeRO-3 holds in shards, with no whole copy of them on any process.

ZeRO-3 gathers the weights of a layer when the layer runs, on all processes together, so all must run the same layers in
the same order. Processes that draw answers do not: one has longer thoughts, longer answers or more questions than
another. Here they take turns. Before anything is gathered each says what it needs next. All gather the first of it,
also those that need something else; those that have come to a meeting run along in passes, with one token. A pass over
the decoder comes after all weights that are needed, so that all which wait for one make it together: from meeting to
meeting there are as many as the busiest process makes. An error of one process leaves the others waiting, as in any
collective, until the launcher ends them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...system.compat import forget_order, gather_weight, is_gathered, is_sharded, release_weight

# What a process may need besides a weight, which it asks for by its number. Weights come first, then a pass, and a
# meeting last.
PASS, MEETING = 2**62, 2**62 + 1


class SyncedPasses:
    """What the processes gather next, agreed before each gather."""

    active: SyncedPasses | None = None

    def __init__(self, model: Any) -> None:
        self.trunk, self.device = model.base_model, model.device
        self.weights: dict[int, Any] = {weight.ds_id: weight for weight in model.parameters() if is_sharded(weight)}
        self.is_passing = False  # within a pass the processes gather the same weights anyway
        outside = [model.get_input_embeddings(), model.get_output_embeddings(), *model.children()]
        self.outside = {id(module): module for module in outside if module is not None and module is not self.trunk}

    def ask(self, need: int) -> None:
        """Returns when all processes are at what this one needs, or help with it. Until then this one helps others."""
        while (turn := self._agree(need)) != need:
            if turn == PASS:
                self._pass_along()
            else:
                self._gather_along(self.weights[turn])

    @contextmanager
    def gathering(self, weights: Sequence[Any]) -> Iterator[None]:
        """Within it these weights are whole here."""
        self._gather(weights)
        try:
            yield
        finally:
            self._release(weights)

    def release(self) -> None:
        """Leaves each process its shards alone. Weights that one of them had kept would not be gathered with others."""
        self._release(list(self.weights.values()))

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Within it modules of the model ask before they run. DeepSpeed's hooks run between ours and the module."""
        with ExitStack() as hooks:

            def hook(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> None:
                hooks.callback(module.register_forward_pre_hook(before, prepend=True).remove)
                hooks.callback(module.register_forward_hook(after).remove)

            hook(self.trunk, self._before_pass, self._after_pass)
            for module in self.outside.values():
                hook(module, self._before_module, self._after_module)
            yield

    def _agree(self, need: int) -> int:
        """The first of what all processes need."""
        turn = torch.tensor(need, device=self.device)
        dist.all_reduce(turn, dist.ReduceOp.MIN)
        return int(turn)

    def _pass_along(self) -> None:
        self.is_passing = True
        size, was_training = self.trunk.config.get_text_config().hidden_size, self.trunk.training
        self.trunk.eval()  # dropout would take random numbers that training needs
        with torch.no_grad():
            self.trunk(
                inputs_embeds=torch.zeros(1, 1, size, device=self.device, dtype=self.trunk.dtype), use_cache=False
            )
        self.trunk.train(was_training)

    def _gather(self, weights: Sequence[Any]) -> None:
        for weight in weights:
            self.ask(weight.ds_id)
            gather_weight(weight)

    def _gather_along(self, weight: Any) -> None:
        is_held = is_gathered(weight)  # in use here while others need it: all processes gather it again
        release_weight(weight)
        gather_weight(weight)
        if not is_held:
            release_weight(weight)

    @staticmethod
    def _release(weights: Sequence[Any]) -> None:
        for weight in weights:
            if is_gathered(weight):
                release_weight(weight)

    def _before_pass(self, *_: Any) -> None:
        if not self.is_passing:
            self.ask(PASS)
            self.is_passing = True

    def _after_pass(self, *_: Any) -> None:
        self.is_passing = False

    def _before_module(self, module: nn.Module, _: Any) -> None:
        self._gather([weight for weight in module.parameters() if is_sharded(weight) and not is_gathered(weight)])

    def _after_module(self, module: nn.Module, *_: Any) -> None:
        self._release([weight for weight in module.parameters() if is_sharded(weight)])


@contextmanager
def synced_passes(model: Any, wrapped: Any) -> Iterator[None]:
    """Within it each process may run what it likes of a model, as long as `meet` stands before its own collectives.

    Nothing happens where the weights are not sharded.

    Args:
        wrapped: What a Trainer runs in training, DeepSpeed's engine under ZeRO-3.
    """
    if not any(map(is_sharded, model.parameters())):
        yield
        return
    forget_order(wrapped)
    SyncedPasses.active = synced = SyncedPasses(model)
    try:
        with synced.hooked():
            synced.release()
            yield
            synced.ask(MEETING)
            synced.release()
    finally:
        SyncedPasses.active = None


def meet() -> None:
    """Stands before a collective that is called between passes: helps other processes until all have come to it."""
    if SyncedPasses.active is not None:
        SyncedPasses.active.ask(MEETING)
