"""The tiny recipe, and the weights of its runs."""

import torch
from conftest import ROOT
from safetensors.torch import load_file

from neuralese.pipeline.recipe.load import load_recipe

TINY = ROOT / "tests" / "tiny.yaml"


def tiny(folder, *overrides):
    return load_recipe(TINY, [f"output_dir={folder}", *overrides])


def weights(folder):
    return load_file(folder / "model.safetensors")


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
