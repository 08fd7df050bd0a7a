"""Turn a base language model into a latent reasoner: recipe, latents, training stages, evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loading import load_reasoner, make_reasoner
    from .reasoner import Reasoner, Samples

PUBLIC = {"Reasoner": "reasoner", "Samples": "reasoner", "load_reasoner": "loading", "make_reasoner": "loading"}
__all__ = ["Reasoner", "Samples", "load_reasoner", "make_reasoner"]


def __getattr__(name: str) -> Any:
    # The command line must answer --help and typing errors without waiting for torch.
    if name in PUBLIC:
        return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
