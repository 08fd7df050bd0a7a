"""Recipes and runs over a base in 4 or 8 bits: what is refused, and checkpoints in full precision."""

import json
import sys

import pytest
import quantization_gap
import torch
from quantized import KINDS, layers, recipe
from runs import tiny, weights
from transformers import AutoModelForCausalLM

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.latent.engine.quantized import is_quantized
from neuralese.pipeline.recipe.load import RecipeError, load_recipe
from neuralese.pipeline.run import results
from neuralese.pipeline.run.launch import LaunchError, check_launched, check_quantized_launch
from neuralese.pipeline.run.train import run
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train import callbacks, hand_over

pytest.importorskip("bitsandbytes")

LORA = "model.lora={r: 4, target_modules: [c_attn]}"
PATH = "model.name_or_path=somewhere"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        ([LORA, "model.quantization={bits: 4}"], "quantization needs a trained model"),
        (
            ["model.config=null", PATH, "model.quantization={bits: 4}"],
            "quantization needs lora: quantised weights cannot",
        ),
        ([LORA, "model.quantization={bits: 5}"], "model.quantization.bits"),
        ([LORA, "model.quantization={bits: 8, quant_type: nf4}"], "quant_type=nf4 is of 4 bits alone"),
        ([LORA, "model.quantization={bits: 8, double_quant: false}"], "double_quant=False is of 4 bits alone"),
        ([LORA, "model.quantization={bits: 4, quant_type: int4}"], "model.quantization.quant_type"),
        (
            [LORA, "model.quantization={bits: 4, double: true}"],
            "model.quantization.double'.*did you mean 'double_quant'",
        ),
        ([LORA, "model.quantization={quant_type: nf4}"], "model.quantization.bits"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(tmp_path, overrides, why):
    with pytest.raises(RecipeError, match=why):
        tiny(tmp_path, *overrides)


def test_the_keys_of_a_resolved_recipe_are_read_again(save, tmp_path):
    save("gpt2")
    for given, full in (
        ({"bits": 4}, {"bits": 4, "quant_type": "nf4", "double_quant": True}),
        ({"bits": 4, "quant_type": "fp4", "double_quant": False},) * 2,
        ({"bits": 8}, {"bits": 8, "quant_type": None, "double_quant": None}),
    ):
        of = recipe(tmp_path, "gpt2", f"model.quantization={json.dumps(given)}")
        assert of.model.quantization.model_dump() == full
        (tmp_path / "recipe.yaml").write_text(of.to_yaml())
        assert load_recipe(tmp_path / "recipe.yaml") == of


@pytest.mark.parametrize(
    ("lora", "why"),
    [
        ("{target_modules: [c_attn], use_dora: true}", "model.lora.use_dora reads or changes the weights of the base"),
        (
            "{target_modules: [c_attn], target_parameters: [c_fc.weight]}",
            "model.lora.target_parameters reads or changes",
        ),
        (
            "{target_modules: [c_attn], modules_to_save: [c_fc]}",
            "modules_to_save trains transformer.h.0.mlp.c_fc whole",
        ),
        ("{target_modules: [c_attn], modules_to_save: [mlp]}", "modules_to_save trains transformer.h.0.mlp whole, and"),
    ],
)
def test_adapters_that_need_full_weights_are_refused(save, tmp_path, lora, why):
    save("gpt2")
    if "target_parameters" not in lora:  # which PEFT cannot do on GPT-2
        check_recipe(recipe(tmp_path, "gpt2", f"model.lora={lora}"))
    with pytest.raises(RecipeError, match=why):
        check_recipe(recipe(tmp_path, "gpt2", f"model.lora={lora}", "model.quantization={bits: 4}"))


def test_launches_that_split_or_copy_weights_are_refused(save, tmp_path, monkeypatch):
    save("gpt2")
    of = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}")
    (tmp_path / "ds.json").write_text("{}")
    staged = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}", f"rl.trainer.deepspeed={tmp_path / 'ds.json'}")
    check_quantized_launch(of)
    with pytest.raises(LaunchError, match="rl.trainer.deepspeed asks for DeepSpeed, which cannot hold"):
        check_quantized_launch(staged)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    check_quantized_launch(recipe(tmp_path))
    with pytest.raises(LaunchError, match="The launcher asks for DeepSpeed, which cannot hold"):
        check_recipe(of)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LaunchError, match="2 GPUs are in sight of one process.*ddp.yaml.*CUDA_VISIBLE_DEVICES=0"):
        check_launched(of)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launched(of)


def untrained(folder):
    """A base of the words of the tiny recipe, in `folder/gpt2`."""
    of = tiny(folder, "tracking.wandb=false", "curriculum=null", "rl=null", "name=first")
    run(of)
    (of.folder / "base" / "final").rename(folder / "gpt2")


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("nf4", ["model.dtype=bfloat16"]),
        ("int8", ["rl.algorithm=ppo", "curriculum.supervision=decoder", "rl.trainer.beta=0.1"]),
    ],
)
def test_a_run_leaves_ordinary_checkpoints(tmp_path, monkeypatch, kind, more):
    untrained(tmp_path)
    ends, measured, release, measure = [], [], hand_over.release, results.measure

    def keep(trainer):
        trains = {key: w for key, w in trainer.model.named_parameters() if w.requires_grad}
        ends.append(({w.dtype for w in trains.values()}, len(layers(trainer.model))))
        assert all(w.abs().max() > 0 for key, w in trains.items() if "lora_B" in key)
        release(trainer)

    def look(reasoner, *args):
        measured.append((len(layers(reasoner.model)), reasoner.config.compute_dtype))
        return measure(reasoner, *args)

    monkeypatch.setattr(hand_over, "release", keep)
    monkeypatch.setattr(results, "measure", look)
    # A reward by which answers differ, whatever is drawn, so that RL moves its adapter, too.
    (tmp_path / "reward.py").write_text(
        "def size(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    reward = f"rl.rewards=[{{function: '{tmp_path / 'reward.py'}:size'}}]"
    of = recipe(tmp_path, "gpt2", f"model.quantization={json.dumps(KINDS[kind])}", reward, *more)
    run(of)
    assert ends == [({torch.float32}, 4)] * 4
    assert measured == [(4, of.model.dtype)] * 3
    assert json.loads((of.folder / "samples" / "rl" / "greedy.jsonl").open().readline())["quantization"]
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(SystemExit) as stop:
        main(["eval", str(of.folder), "model.quantization=null", "evaluate.sampling=[]"])
    assert not stop.value.code and measured[3:] == [(0, of.model.dtype)] * 3
    head = (of.folder / "eval-samples" / "rl" / "greedy.jsonl").open().readline()
    assert "quantization" not in json.loads(head)
    for stage in ("sft", "curriculum", "rl"):
        final = of.folder / stage / "final"
        assert {weight.dtype for weight in weights(final).values()} == {torch.float32}
        assert "quantization_config" not in json.loads((final / "config.json").read_text())
        _, info = AutoModelForCausalLM.from_pretrained(final, output_loading_info=True)
        assert not info["missing_keys"] and not is_quantized(load_reasoner(final).model)


def test_the_script_measures_what_quantisation_costs(tmp_path):
    untrained(tmp_path)
    found = {}
    for kind in ("null", "{bits: 8}", "{bits: 4}"):
        of = recipe(tmp_path, "gpt2", f"model.quantization={kind}", "sft.trainer.learning_rate=0.02")
        found[kind] = quantization_gap.gap(of, steps=12, batch=4, problems=8)
    plain, int8, nf4 = found.values()
    assert plain["full"] == pytest.approx(plain["trained"], abs=1e-4) == plain["quantised again"]
    assert plain["base, full"] == plain["base, quantised"] == nf4["base, full"] != nf4["base, quantised"]
    assert plain["MB, quantised"] == plain["MB, full"] == nf4["MB, full"] > int8["MB, quantised"] > nf4["MB, quantised"]
    for one in found.values():
        assert one["trained"] < one["base, quantised"] - 0.1
        assert one["quantised again"] == pytest.approx(one["trained"], abs=0.1)
    with pytest.raises(RecipeError, match="must have model.name_or_path, model.lora"):
        quantization_gap.gap(tiny(tmp_path), 1, 1, 1)


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, monkeypatch):
    untrained(tmp_path)
    options = ["model.quantization={bits: 4}", "sft=null", "curriculum=null", "rl.noise=null"]
    run(recipe(tmp_path, "gpt2", *options))

    def die_at_three(self, args, state, control, **kwargs):
        assert state.global_step < 3, "killed"

    monkeypatch.setattr(callbacks.ProgressCallback, "on_step_end", die_at_three)
    with pytest.raises(AssertionError, match="killed"):
        run(recipe(tmp_path, "gpt2", *options, "name=killed"))
    monkeypatch.undo()
    resumed = recipe(tmp_path, "gpt2", *options, "name=killed")
    run(resumed, resume=True)
    one, other = weights(tmp_path / "tiny" / "rl" / "final"), weights(resumed.folder / "rl" / "final")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stopped_curriculum_hands_over_full_weights(tmp_path):
    untrained(tmp_path)
    of = recipe(tmp_path, "gpt2", "model.quantization={bits: 4}", "rl=null", "curriculum.at_limit=stop")
    run(of)
    before, after = weights(of.folder / "sft" / "final"), weights(of.folder / "curriculum" / "final")
    assert all(torch.equal(before[key], after[key]) for key in before)
