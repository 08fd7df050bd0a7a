"""Turn a base language model into a latent reasoner: recipe, latents, training stages, evaluation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model.load import load_reasoner, make_reasoner
    from .model.reasoner import Reasoner, Samples

PUBLIC = {
    "Reasoner": "model.reasoner",
    "Samples": "model.reasoner",
    "load_reasoner": "model.load",
    "make_reasoner": "model.load",
}
__all__ = ["Reasoner", "Samples", "load_reasoner", "make_reasoner"]


def __getattr__(name: str) -> Any:
    # The command line must answer --help and typing errors without waiting for torch.
    if name in PUBLIC:
        return getattr(import_module(f".{PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
