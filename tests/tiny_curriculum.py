"""The tiny recipe up to its curriculum, options of it, and the report that it leaves."""

import json

from runs import TINY

from neuralese.pipeline.recipe.load import load_recipe

DECODER = ["curriculum.supervision=decoder", "curriculum.supervision_options={layers: 1}"]
PROJECTION = "latent.thought_source=projection"
STOPPING = ["latent.stop_head=true", "curriculum.pad_latents=false"]


def recipe(folder, *overrides):
    """The tiny recipe without RL."""
    return load_recipe(TINY, [f"output_dir={folder}", "tracking.wandb=false", "rl=null", *overrides])


def report(folder):
    return json.loads((folder / "report.json").read_text())
