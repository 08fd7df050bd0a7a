"""Turn a base language model into a latent reasoner: recipe, latents, training stages, evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reasoner import Reasoner, Samples, load_reasoner, make_reasoner

__all__ = ["Reasoner", "Samples", "load_reasoner", "make_reasoner"]


def __getattr__(name: str) -> Any:
    # The command line must answer --help and typing errors without waiting for torch.
    if name in __all__:
        from . import reasoner

        return getattr(reasoner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
