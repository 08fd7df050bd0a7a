"""Noise on latents: a file for each kind, named as recipes name it. Importing this package registers all kinds.

A kind of one's own is a subclass of `Noise` with `@register_noise("name")`. `normal` and `uniform` make draws from a
seed, and `rms` is the root mean square of a vector.
"""

from . import dropout, gaussian, gumbel, learned, spherical, svp
from .base import (
    NOISES,
    Noise,
    NoiseError,
    check_fits,
    normal,
    parse_noise,
    register_noise,
    rms,
    uniform,
)
from .replacement import Replacement

__all__ = [
    "NOISES",
    "Noise",
    "NoiseError",
    "Replacement",
    "check_fits",
    "normal",
    "parse_noise",
    "register_noise",
    "rms",
    "uniform",
]
KINDS = (dropout, gaussian, gumbel, learned, spherical, svp)
