"""Thought sources: how the next input is made from the last hidden state. A file for each, named as recipes name it.

Importing this package registers all sources. A source of one's own is a subclass of `ThoughtSource` with
`@register_thought_source("name")`.
"""

from .base import (
    THOUGHT_SOURCES,
    Mixture,
    Thought,
    ThoughtSource,
    build_source,
    embedding_rms,
    register_thought_source,
    suppress,
)
from .gaussian_head import GaussianHead
from .norm_matched import NormMatched
from .pause import Pause, PauseMultiPass
from .projection import Projection
from .raw import Raw
from .soft_vocabulary import SoftVocabulary

__all__ = [
    "THOUGHT_SOURCES",
    "GaussianHead",
    "Mixture",
    "NormMatched",
    "Pause",
    "PauseMultiPass",
    "Projection",
    "Raw",
    "SoftVocabulary",
    "Thought",
    "ThoughtSource",
    "build_source",
    "embedding_rms",
    "register_thought_source",
    "suppress",
]
