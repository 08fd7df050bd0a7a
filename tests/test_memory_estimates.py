"""Estimates of memory against what torch allocates while small models train, and by hand."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes import functional
from conftest import ROOT
from measured_memory import RECIPE
from torch import nn
from typer.testing import CliRunner

from neuralese.pipeline.cli.app import app
from neuralese.pipeline.cli.preview import recipe_tokenizer
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import QuantizationSection
from neuralese.pipeline.system import memory
from neuralese.pipeline.train.checked_problems import encode_checked
from neuralese.pipeline.train.memory.estimate import estimates
from neuralese.pipeline.train.memory.inputs import Inputs
from neuralese.pipeline.train.memory.ledger import Ledger, without_data
from neuralese.pipeline.train.memory.peak import Peak
from neuralese.pipeline.train.memory.sharding import BUCKET, LIVE, held, ways
from neuralese.pipeline.train.memory.weightless import weight_bytes

TRAINERS = ("sft.trainer", "curriculum.trainer", "rl.trainer")
RECIPES = {
    "float32": [],
    "bfloat16, LoRA": ["model.dtype=bfloat16", "model.lora.r=8"],
    "checkpointing, accumulation, PPO with a reference": [
        *(f"{trainer}.gradient_checkpointing=true" for trainer in TRAINERS),
        *(f"{trainer}.gradient_accumulation_steps=2" for trainer in TRAINERS),
        "rl.algorithm=ppo",
        "rl.trainer.beta=0.1",
    ],
}
PARTS = ("sft", "curriculum 1", "rl, update", "rl, draw")
# Of what is held besides weights and optimizer states. The project asks for 15% of all; this finds smaller mistakes.
TOLERANCE = 0.03
MB = 10**6


def found_for(folder, keys):
    """The estimates of a recipe, by part."""
    path = folder / "recipe.yaml"
    path.write_text(RECIPE)
    recipe = load_recipe(path, [f"output_dir={folder}", *keys])
    problems = load_all(recipe)
    config, tokenizer = recipe_tokenizer(recipe, problems)
    recipe, encoded = encode_checked(recipe, problems, tokenizer, config)
    return {one.name: one for one in estimates(Inputs(recipe, config, tokenizer, encoded), problems.train)}


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Bytes that were allocated at most, by recipe and part."""
    command = [sys.executable, str(ROOT / "tests" / "measured_memory.py"), str(tmp_path_factory.mktemp("measured"))]
    env = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([*command, json.dumps(list(RECIPES.values()))], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return dict(zip(RECIPES, json.loads(done.stdout.splitlines()[-1]), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_estimates_are_what_torch_allocates(recipe, measured, tmp_path):
    found = found_for(tmp_path, RECIPES[recipe])
    assert tuple(found) == PARTS
    for part, one in found.items():
        bytes_of = held(one.peak, "one process", 1)
        kept = bytes_of["weights"] + bytes_of["optimizer"] + bytes_of["reference"]
        total = sum(bytes_of.values())
        assert abs(total - measured[recipe][part]) < TOLERANCE * (measured[recipe][part] - kept), part


def test_each_key_moves_what_it_should(tmp_path):
    plain = found_for(tmp_path, [])
    of = {part: held(plain[part].peak, "one process", 1) for part in PARTS}
    weights = plain["sft"].peak.in_full
    assert of["sft"]["weights"] == pytest.approx(weights, rel=1e-3)  # and a buffer of frequencies
    assert of["sft"]["optimizer"] == pytest.approx(2 * weights, rel=1e-3)
    assert of["sft"].get("keys_and_values", 0) == 0 and of["curriculum 1"]["keys_and_values"] > 0
    # 3 layers, 24 rows, 9 + 4 columns of questions and latents, 12 of answers, keys and values of 2 heads of 48 floats
    assert of["rl, draw"]["keys_and_values"] == 3 * 24 * (plain["rl, draw"].longest) * 2 * 2 * 48 * 4
    assert plain["rl, draw"].rows == 24
    again = ["sft.trainer.gradient_accumulation_steps=2", "curriculum=null"]
    half = found_for(tmp_path, ["rl.rollout_batch_tokens=300", "rl.trainer.optim=sgd", "rl.noise=null", *again])
    assert held(half["sft"].peak, "one process", 1)["gradients"] == half["sft"].peak.trained > 0
    assert of["sft"]["gradients"] < 0.05 * weights  # where activations are most, hardly one is there
    assert half["rl, draw"].rows == 300 // half["rl, draw"].longest
    assert held(half["rl, update"].peak, "one process", 1).get("optimizer", 0) == 0


def test_memory_of_a_computer_is_what_its_groups_let_it_have(monkeypatch, tmp_path):
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(total=9000))
    monkeypatch.setattr(memory, "_limits", lambda own, root: [(7000, tmp_path / "used"), (8000, tmp_path / "used")])
    assert memory.whole_memory(torch.device("cpu")) == 7000
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    assert memory.whole_memory(torch.device("cuda", 0)) == 5000


PEAK = Peak(
    most={"weights": 40 * MB, "gradients": 8 * MB, "optimizer": 80 * MB, "activations": 10 * MB},
    most_beside_gradients={"weights": 40 * MB, "gradients": 0, "optimizer": 80 * MB, "activations": 10 * MB},
    in_full=40 * MB,
    trained=40 * MB,
    optimizer=80 * MB,
    reference=40 * MB,
)


def test_what_processes_share_by_hand():
    assert ways(1, False) == ["one process"] and ways(8, True) == ["DDP"]
    assert ways(8, False) == ["DDP", "ZeRO-2", "ZeRO-3"]
    kinds = ("weights", "reference", "gradients", "optimizer", "activations")
    by_hand = {
        "one process": (40, 40, 8, 80, 10),
        "DDP": (40, 40, 48, 80, 10),
        "ZeRO-2": (40, 40, BUCKET / MB + 1, 10 + 5, 10),  # of 8 MB of gradients that are there
        "ZeRO-3": (5 + 40, 5, BUCKET / MB + 5 + 40, 10, 10),
    }
    for way, expected in by_hand.items():
        assert [held(PEAK, way, 8)[kind] / MB for kind in kinds] == list(expected), way


def test_zero_at_the_end_of_the_backward_and_while_it_draws():
    large = replace(PEAK, trained=400 * MB, most={"gradients": 400 * MB})
    assert "activations" not in held(large, "ZeRO-2", 8)  # 50 MB of gradients are more than these
    assert held(large, "ZeRO-2", 8)["gradients"] == BUCKET + 50 * MB
    early = held(replace(PEAK, accumulates=True), "ZeRO-2", 8)
    assert early["gradients"] == BUCKET + 5 * MB and early["activations"] == 10 * MB
    huge = replace(PEAK, in_full=100 * LIVE, trained=100 * LIVE)
    assert held(huge, "ZeRO-3", 100)["gradients"] == 2 * BUCKET + LIVE
    assert held(replace(huge, draws=True), "ZeRO-3", 100)["gradients"] == BUCKET + LIVE
    assert held(huge, "ZeRO-3", 100)["weights"] == 2 * LIVE
    assert held(replace(huge, draws=True), "ZeRO-3", 100)["weights"] == 101 * LIVE
    assert held(replace(huge, draws=True, draws_whole=False), "ZeRO-3", 100)["weights"] == 2 * LIVE


def test_a_ledger_counts_what_lives():
    layer = nn.Linear(10, 100, bias=False, device="meta")
    ledger = Ledger(without_data(layer), widths={100})
    with ledger:
        ledger.hold(layer.parameters(), "weights")
        x = torch.zeros(5, 10)
        with ledger.making("keys_and_values"):
            kept = torch.zeros(3)
        y = layer(x)
        y = y.exp()  # autograd keeps the result, and the first y is gone
        assert y[torch.tensor([True, False, True, False, True])].shape == (3, 100)
        y.sum().backward()
        assert kept.dtype == torch.float32 and y.detach().sum().item() == 0.0  # without data a number is 0
    assert ledger.most["weights"] == 4 * 1000 and ledger.most["keys_and_values"] == 4 * 3
    assert ledger.most["logits"] == 4 * 500 * 2
    assert not any(weight.is_meta for weight in layer.parameters()) and y.argmax(1).shape == (5,)


@pytest.mark.parametrize(
    "section", [{"bits": 8}, {"bits": 4}, {"bits": 4, "double_quant": False}], ids=["8", "4", "4, scales whole"]
)
def test_weights_in_few_bits_take_what_bitsandbytes_gives_them(section):
    section = QuantizationSection(**section)
    weight = torch.randn(512, 256)
    if section.bits == 8:
        parts = functional.int8_vectorwise_quant(weight.half())[:2]
    else:
        data, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=section.double_quant)
        parts = [data, state.absmax] + ([state.state2.absmax] if section.double_quant else [])

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(256, 512, bias=False), nn.Linear(256, 20)

        def get_output_embeddings(self):
            return self.head

    model = Model()
    sizes = weight_bytes(model, section)
    assert sizes[id(model.layer.weight)] == sum(part.numel() * part.element_size() for part in parts)
    assert sizes[id(model.head.weight)] == 4 * 256 * 20
    assert weight_bytes(model, None)[id(model.layer.weight)] == 4 * 256 * 512


def test_check_prints_a_row_for_each_part_and_way(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    called = ["check", str(path), f"output_dir={tmp_path}"]
    shown = CliRunner().invoke(app, [*called, "--memory", "--processes", "8"], env={"COLUMNS": "180"})
    assert shown.exit_code == 0, shown.output
    for part in PARTS:
        rows = [line for line in shown.output.splitlines() if line.startswith(f"│ {part} ") and "24 x" in line]
        assert [row.split("│")[3].strip() for row in rows] == ["DDP", "ZeRO-2", "ZeRO-3"]
    refused = CliRunner().invoke(app, [*called, "--processes", "8"])
    assert "--processes 8 says for how many processes" in str(refused.exception)
    assert CliRunner().invoke(app, [*called, "--memory", "--processes", "0"]).exit_code == 2
    controls = ["sft=null", "rl=null", "controls={latent: false, no_cot: true}", "--memory"]
    alone = CliRunner().invoke(app, [*called, *controls], env={"COLUMNS": "180"})
    assert alone.exit_code == 0 and "the recipe trains controls alone, which are not counted" in alone.output
