"""`dtype: auto`: what a model says that it computes in, chosen once for a run."""

import json

import pytest
import torch
from conftest import ROOT
from runs import tiny
from transformers import GPT2Config

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent.latentize import latent_section
from neuralese.pipeline.model.dtype import chosen_dtype, with_dtype
from neuralese.pipeline.model.load import auto_dtype
from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.run.folder import RunError
from neuralese.pipeline.run.train import run

SFT_ALONE = ["tracking.wandb=false", "curriculum=null", "rl=null"]


def foreign(folder, dtype):
    """Makes a saved reasoner a model of others, whose config says this dtype. None: it says nothing."""
    config = json.loads((folder / "config.json").read_text())
    del config["latent"], config["dtype"]
    (folder / "config.json").write_text(json.dumps(config if dtype is None else {**config, "dtype": dtype}))


@pytest.mark.parametrize(
    ("said", "chosen", "why"),
    [
        ("bfloat16", "bfloat16", "the model's config says so"),
        (torch.bfloat16, "bfloat16", "the model's config says so"),
        ("float16", "float32", "the model's config says float16"),
        (torch.float32, "float32", "the model's config says float32"),
        ("float64", "float32", "the model's config says float64"),
        (None, "float32", "the model's config says nothing"),
    ],
)
def test_a_model_of_others_computes_in_what_its_config_says(said, chosen, why):
    assert auto_dtype(GPT2Config(dtype=said)) == (chosen, why)


@pytest.mark.parametrize("said", ["bfloat16", "float16", "float32", None])
def test_weights_are_float32_whatever_is_chosen(reasoner, tmp_path, said):
    reasoner.save_pretrained(tmp_path)
    foreign(tmp_path, said)
    loaded = load_reasoner(tmp_path, dtype="auto")
    assert loaded.config.compute_dtype == ("bfloat16" if said == "bfloat16" else "float32")
    assert {weight.dtype for weight in loaded.model.parameters()} == {torch.float32}
    assert load_reasoner(tmp_path).config.compute_dtype == "float32"  # without auto


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_computes_in_what_it_was_trained_in(reasoner, tmp_path, dtype):
    """Its config says float32, as that of any checkpoint of ours, since its weights are."""
    reasoner.model.set_latent_config(compute_dtype=dtype)
    reasoner.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float32"
    assert load_reasoner(tmp_path, dtype="auto").config.compute_dtype == dtype
    of = tiny(tmp_path, "model.config=null", f"model.name_or_path={tmp_path}", "model.dtype=auto")
    assert chosen_dtype(of) == (dtype, "the checkpoint was trained in it")
    assert with_dtype(of).model == of.model.model_copy(update={"dtype": dtype})


def test_a_checkpoint_in_float64_is_refused(reasoner, tmp_path):
    reasoner.model.set_latent_config(compute_dtype="float64")
    reasoner.save_pretrained(tmp_path)
    of = tiny(tmp_path, "model.config=null", f"model.name_or_path={tmp_path}", "model.dtype=auto")
    with pytest.raises(RecipeError, match="model.dtype=auto is float64: the checkpoint was trained in it.*name one"):
        with_dtype(of)


def test_all_stages_of_a_run_compute_in_the_chosen_dtype(tmp_path):
    run(tiny(tmp_path, *SFT_ALONE, "name=first"))
    base = tmp_path / "first" / "base" / "final"
    foreign(base, "bfloat16")
    options = ["model.config=null", f"model.name_or_path={base}", "tracking.wandb=false"]
    run(tiny(tmp_path, *options, "model.dtype=auto"))
    folder = tmp_path / "tiny"
    assert load_recipe(folder / "recipe.yaml").model.dtype == "bfloat16"
    for stage in ("sft", "curriculum/level-1", "curriculum", "rl"):
        config = json.loads((folder / stage / "final" / "config.json").read_text())
        assert config["latent"]["compute_dtype"] == "bfloat16", stage
    for dtype in ("auto", "bfloat16"):
        run(tiny(tmp_path, *options, f"model.dtype={dtype}"), resume=True)
    with pytest.raises(RunError, match='model.dtype: "bfloat16" then, "float32" now'):
        run(tiny(tmp_path, *options), resume=True)
    foreign_again = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**foreign_again, "dtype": "float32"}))
    with pytest.raises(RunError, match='model.dtype: "bfloat16" then, "float32" now'):
        run(tiny(tmp_path, *options, "model.dtype=auto"), resume=True)


@pytest.mark.parametrize("said", ["bfloat16", "float32"])
def test_a_new_model_computes_in_what_the_recipe_says_of_it(tmp_path, said):
    run(tiny(tmp_path, *SFT_ALONE, "model.dtype=auto", f"model.config.dtype={said}"))
    config = json.loads((tmp_path / "tiny" / "sft" / "final" / "config.json").read_text())
    assert latent_section(GPT2Config(**config)).compute_dtype == said and config["dtype"] == "float32"


def test_check_says_which_dtype_was_chosen(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["check", str(ROOT / "tests" / "tiny.yaml"), f"output_dir={tmp_path}", "model.dtype=auto"])
    assert not stop.value.code
    assert "model.dtype: auto is float32: the model's config says nothing." in " ".join(capsys.readouterr().out.split())
    unreachable = ["model.config=null", "model.name_or_path=no-org/no-model"]
    with pytest.raises(SystemExit) as stop:
        main(["check", str(ROOT / "tests" / "tiny.yaml"), f"output_dir={tmp_path}", "model.dtype=auto", *unreachable])
    said = " ".join(capsys.readouterr().out.split())
    assert not stop.value.code and "model.dtype: auto is not known. There is no model 'no-org/no-model'" in said


def test_a_model_that_is_not_there_is_told(tmp_path):
    of = tiny(tmp_path, "model.config=null", f"model.name_or_path={tmp_path / 'none'}", "model.dtype=auto")
    with pytest.raises(UserError, match="There is no folder"):
        with_dtype(of)
