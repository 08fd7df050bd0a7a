"""Reward functions: the built-in ones, and loading and checking your own."""

from .answers import completion_text, extract_answer, normalise_answer
from .builtin import (
    BUILTIN,
    answer_format,
    exact_match,
    latent_cost,
    length_cost,
    numeric_match,
    valid_path,
)
from .checking import RewardCheck, check_reward, checked
from .errors import RewardError
from .gym import reasoning_gym
from .loading import load_reward
from .mathematics import math_verify
from .numbers import parse_number
from .retries import Patience

__all__ = [
    "BUILTIN",
    "Patience",
    "RewardCheck",
    "RewardError",
    "answer_format",
    "check_reward",
    "checked",
    "completion_text",
    "exact_match",
    "extract_answer",
    "latent_cost",
    "length_cost",
    "load_reward",
    "math_verify",
    "normalise_answer",
    "numeric_match",
    "parse_number",
    "reasoning_gym",
    "valid_path",
]
