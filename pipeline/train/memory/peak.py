"""What a training step holds at most, in one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import Trainer

from ....data.errors import UserError, reason
from ...latent.engine.cache import PassLayer
from ...recipe.schema import QuantizationSection
from ...system.compat import TILE_WIDTH
from .ledger import Bytes, Ledger
from .steps import Step
from .weightless import weight_bytes


class EstimateError(UserError):
    """A step whose memory cannot be found without running it."""


@dataclass(frozen=True)
class Peak:
    """What a training step holds at most.

    Attributes:
        most: When most is held, in one process.
        most_beside_gradients: When most is held besides gradients, which ZeRO shards.
        in_full: Bytes of all weights in float32, as DeepSpeed has them. Elsewhere those that a LoRA freezes take less.
        trained: Bytes of the weights that train; their gradients take as much.
        optimizer: Bytes of the optimizer's states.
        reference: Bytes of a second model that is held beside it.
        accumulates: Gradients of earlier micro-batches are held from the beginning.
        draws: Rollouts are drawn, and nothing has a gradient.
        draws_whole: ZeRO-3 gathers all weights for them.
    """

    most: Bytes
    most_beside_gradients: Bytes
    in_full: int
    trained: int
    optimizer: int
    reference: int = 0
    accumulates: bool = False
    draws: bool = False
    draws_whole: bool = True


def peak_of(step: Step, quantization: QuantizationSection | None) -> Peak:
    """Runs optimizer steps without data: one that makes the optimizer's states, and one that is measured.

    Raises:
        EstimateError: A part of the step needs numbers, which are not there.
    """
    micro_batches = step.args.gradient_accumulation_steps
    with counting(step, quantization) as ledger:
        trained = [weight for weight in step.model.parameters() if weight.requires_grad]
        with _gradients_apart(ledger, trained):
            optimizer = _optimizer(step)
            for weight in trained:
                weight.grad = torch.empty_like(weight)
            ledger.hold([weight.grad for weight in trained if weight.grad is not None], "gradients")
            with ledger.making("optimizer"):
                optimizer.step()
            optimizer.zero_grad()
            ledger.forget_peaks()
            for _ in range(min(micro_batches, 2)):  # from the second on gradients are there
                step.loss().backward()
            optimizer.step()
            optimizer.zero_grad()
    in_full = sum(weight.numel() * torch.float32.itemsize for weight in step.model.parameters())
    return Peak(
        ledger.most,
        ledger.most_beside_gradients,
        in_full,
        trained=sum(weight.numel() * weight.element_size() for weight in trained),
        optimizer=ledger.most.get("optimizer", 0),
        reference=in_full if step.has_reference else 0,
        accumulates=micro_batches > 1,
    )


@contextmanager
def counting(step: Step, quantization: QuantizationSection | None) -> Iterator[Ledger]:
    """Counts what is made inside the block beside the weights of a step's model.

    Raises:
        EstimateError: Something inside needs numbers, which are not there.
    """
    model = step.model
    sizes = weight_bytes(model, quantization)
    ledger = Ledger(step.mode, {model.get_output_embeddings().weight.size(0), TILE_WIDTH})
    try:
        with _keys_and_values_apart(ledger), ledger:
            ledger.hold(model.buffers(), "weights")
            for weight in model.parameters():
                ledger.hold([weight], "weights", sizes[id(weight)])
            yield ledger
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        raise EstimateError(
            f"The memory of the stage {step.name} cannot be found without running it: {reason(error)}. Leave out "
            "--memory to check the rest of the recipe."
        ) from error


def _optimizer(step: Step) -> torch.optim.Optimizer:
    """The optimizer that the Trainer makes of its arguments, over the weights that train."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(step.args, step.model)
    return kind([weight for weight in step.model.parameters() if weight.requires_grad], **options)


@contextmanager
def _gradients_apart(ledger: Ledger, trained: Iterable[Tensor]) -> Iterator[None]:
    """Counts the gradients of weights as such, once they are made."""

    def count(weight: Tensor) -> None:
        assert weight.grad is not None
        ledger.hold([weight.grad], "gradients")

    hooks = [weight.register_post_accumulate_grad_hook(count) for weight in trained]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _keys_and_values_apart(ledger: Ledger) -> Iterator[None]:
    """Counts the buffers of keys and values of the engine as such."""
    plain = PassLayer.lazy_initialization

    def counted(layer: PassLayer, keys: Tensor, values: Tensor) -> None:
        with ledger.making("keys_and_values"):
            plain(layer, keys, values)

    PassLayer.lazy_initialization = counted  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        PassLayer.lazy_initialization = plain  # type: ignore[method-assign]
