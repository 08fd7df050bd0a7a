"""The precision that a reasoner computes in, and that of what must not be computed in half of it.

Weights are float32, also those of a model that computes in bfloat16: its matrix products run under autocast, so that
small updates, merged adapters and saved weights lose nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..config import COMPUTE_DTYPES, ModelError

REFUSED = {
    "float16": "its range is too small for losses and latents without a loss scale; take bfloat16",
}
Function = TypeVar("Function", bound=Callable[..., Any])


def precise(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own type where that is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def dtype_name(dtype: Any) -> str:
    """The name of a dtype to compute in, given by name or as a torch dtype.

    Raises:
        ModelError: One that reasoners do not compute in, with the reason.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in COMPUTE_DTYPES:
        why = REFUSED.get(name, "reasoners do not compute in it")
        raise ModelError(f"dtype={name} is refused: {why}. Known are {', '.join(COMPUTE_DTYPES)}.")
    return name


def weight_dtype(computes_in: str) -> torch.dtype:
    """The dtype of the weights of a model that computes in a dtype."""
    return torch.float64 if computes_in == "float64" else torch.float32


def computing(model: Any) -> AbstractContextManager[Any]:
    """A context in which a reasoner computes in the dtype of its latent section."""
    if model.latent_config.compute_dtype != "bfloat16":
        return nullcontext()  # the dtype of the weights
    return torch.autocast(model.device.type, torch.bfloat16)


@contextmanager
def computing_exactly(model: Any) -> Iterator[None]:
    """Lets a reasoner compute in the dtype of its weights, for comparisons that rounding must not blur."""
    section = model.latent_config
    model.latent_config = replace(section, compute_dtype="float32")
    try:
        yield
    finally:
        model.latent_config = section


def in_compute_dtype(function: Function) -> Function:
    """Lets a function whose first argument is the reasoner run in the reasoner's precision, whoever calls it."""

    @functools.wraps(function)
    def computed(model: Any, *args: Any, **kwargs: Any) -> Any:
        with computing(model):
            return function(model, *args, **kwargs)

    return computed  # type: ignore[return-value]
