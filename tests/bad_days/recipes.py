"""Recipes and command lines with mistakes."""

from .day import TINY, BadDay

DAYS = [
    BadDay("a mistyped key", ["check", TINY, "sft.trainr={}"], "unknown key 'sft.trainr', did you mean 'trainer'?"),
    BadDay("a recipe file that is not there", ["check", "quikstart.yaml"], "No recipe at quikstart.yaml"),
    BadDay(
        "an override without a value",
        ["check", TINY, "seed=1", "name="],
        "name: Input should be a valid string",
    ),
]
