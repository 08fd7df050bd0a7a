"""Noise on latents. Importing this package registers the kinds that recipes may name.

A kind of one's own is a subclass of `Noise` with `@register("name")`; `normal` and `uniform` make draws from a seed,
and `rms` is the root mean square of a vector.
"""

from . import kinds as kinds
from .base import NOISES, Noise, NoiseError, check_fits, normal, parse_noise, register, uniform
from .kinds import rms

__all__ = ["NOISES", "Noise", "NoiseError", "check_fits", "normal", "parse_noise", "register", "rms", "uniform"]
