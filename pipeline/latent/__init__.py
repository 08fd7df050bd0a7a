"""The latent engine.

Shapes, everywhere in this package:
    B  rows of a batch          T  columns of a batch (tokens, placeholders, padding)
    N  answers, or supervised positions                 S  packed columns (layout.py)
    L  latents of the longest row                       A  answer tokens
    d  hidden size              V  vocabulary
Masks are named for what True or 1 means: is_latent, is_token, attention_mask (1 = token), loss_mask.
"""

from .config import LatentConfig, ModelError
from .latentize import latentize
from .noise import Noise, NoiseError, parse_noise, register_noise
from .output import LatentOutput
from .thoughts import ThoughtSource, register_thought_source
from .tokens import END, LATENT, START

__all__ = [
    "END",
    "LATENT",
    "START",
    "LatentConfig",
    "LatentOutput",
    "ModelError",
    "Noise",
    "NoiseError",
    "ThoughtSource",
    "latentize",
    "parse_noise",
    "register_noise",
    "register_thought_source",
]
