"""Noise on latents: a file for each kind, named as recipes name it. Importing this package registers all kinds.

A kind of one's own is a subclass of `Noise` with `@register_noise("name")`. `LatentDraws` gives it random numbers, and
`rms` is the root mean square of a vector.
"""

from .base import (
    NOISES,
    Noise,
    NoiseError,
    check_fits,
    parse_noise,
    register_noise,
    rms,
)
from .draws import LatentDraws
from .dropout import DropoutNoise
from .gaussian import GaussianNoise
from .gumbel import GumbelNoise, OneSidedGumbelNoise
from .learned import LearnedNoise
from .replacement import Replacement
from .spherical import SphericalNoise
from .svp import ValueNoise, ValueWeightNoise

__all__ = [
    "NOISES",
    "DropoutNoise",
    "GaussianNoise",
    "GumbelNoise",
    "LatentDraws",
    "LearnedNoise",
    "Noise",
    "NoiseError",
    "OneSidedGumbelNoise",
    "Replacement",
    "SphericalNoise",
    "ValueNoise",
    "ValueWeightNoise",
    "check_fits",
    "parse_noise",
    "register_noise",
    "rms",
]
