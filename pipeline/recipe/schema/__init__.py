"""Every key of a recipe: type, default and meaning. One file for each section, one class for each level of keys.

An unknown key is an error. A recipe is frozen once read. `Recipe` names the sections.
"""

from .base import HomePath, Section, expanded
from .data import DataSection, DataSource, GymSection
from .evaluate import EvaluateSection, MonitorScore, SamplingSection, SearchSection, Selector
from .latent import PASSES, LatentSection
from .model import ModelSection, QuantizationSection
from .recipe import Recipe
from .rl import VALUE_MATRICES, PPOSection, Reward, RLSection
from .supervised import ControlsSection, CurriculumSection, SFTSection
from .tracking import TrackingSection

__all__ = [
    "PASSES",
    "VALUE_MATRICES",
    "ControlsSection",
    "CurriculumSection",
    "DataSection",
    "DataSource",
    "EvaluateSection",
    "GymSection",
    "HomePath",
    "LatentSection",
    "ModelSection",
    "MonitorScore",
    "PPOSection",
    "QuantizationSection",
    "RLSection",
    "Recipe",
    "Reward",
    "SFTSection",
    "SamplingSection",
    "SearchSection",
    "Section",
    "Selector",
    "TrackingSection",
    "expanded",
]
