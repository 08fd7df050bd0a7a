"""Two real processes on CPU give the losses and gradients of one process with accumulation."""

import json

import pytest
import torch
import yaml
from conftest import ROOT
from processes import batches, launch, needs_compiler, processed, train_tiny
from safetensors.torch import load_file, save_file
from test_grpo import make_trainer, rollouts
from test_ppo import make_ppo

from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.scoring.sample_files import read_samples

pytestmark = pytest.mark.launch
TYPES = {"ddp": "MULTI_CPU", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
CONFIGS = [pytest.param(name, marks=[needs_compiler] if name != "ddp" else []) for name in TYPES]


def recorded_trainer(kind, reasoner, problems, folder):
    """Draws the rollouts that are recorded."""
    if kind == "ppo":
        return make_ppo(reasoner, problems, folder)
    return make_trainer(reasoner, problems, folder, how={"estimator": "replay" if kind == "looped" else kind})


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_all_stages_run_and_supervised_losses_are_those_of_one_process(one_process, tmp_path, config):
    _, expected = one_process
    folder, losses = train_tiny(config, tmp_path, *batches(4, 1))
    assert len(expected) == len(losses) == 12  # 4 of sft, 4 of each curriculum stage
    for one, two in zip(expected, losses, strict=True):
        assert (one["stage"], one["step"]) == (two["stage"], two["step"])
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-4)
        assert processed(two) == pytest.approx(processed(one)) and processed(two)["tokens"] > 0
    assert (folder / "rl" / "final" / "model.safetensors").is_file()
    stages = {row["stage"] for row in json.loads((folder / "results.json").read_text())}
    assert stages == {"sft", "curriculum", "rl"}
    tables = {path.name.split("_")[0] for path in (folder / "wandb").glob("offline-run-*/files/media/table/**/*.json")}
    assert {"completions", "followed"} <= tables
    trained = load_file(folder / "rl/final/model.safetensors")
    for name, value in load_file(folder / "base/final/model.safetensors").items():
        assert trained[name].shape == value.shape, name  # whole tensors, not shards


@pytest.mark.slow
def test_two_processes_measure_what_one_does(one_process, tmp_path):
    folder, _ = one_process
    measured = []
    for config in ("cpu", "ddp"):
        output = tmp_path / f"{config}.json"
        options = ["evaluate.scorer=exact_match", "evaluate.problems=19", "--output", output]
        options.append("evaluate.search=[{kind: tree, noise: gaussian:0.5, temperature: 1.0, at: 1, children: 3}]")
        launch(config, "--module", "neuralese.pipeline.cli", "eval", folder, *options)
        measured.append(read_results(output))
    assert measured[0] == measured[1] and {row.n for row in measured[0]} == {19}
    files = sorted(path.relative_to(tmp_path / "cpu-samples") for path in (tmp_path / "cpu-samples").rglob("*.jsonl"))
    assert len(files) == 10  # greedy and T 1 for all three stages, noise and a tree for the two with latents
    for file in files:
        (head, one), (other, two) = (read_samples(tmp_path / f"{config}-samples" / file) for config in ("cpu", "ddp"))
        assert head == other and [row["texts"] for row in one.values()] == [row["texts"] for row in two.values()]
        assert list(one) == list(two) == list(range(19))


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("supervision", "source", "noise", "loops"),
    [
        ("decoder", "projection", "gaussian:0.3", "null"),
        ("distillation", "gaussian_head", "learned:1", "null"),
        ("step_tokens", "raw", "gaussian:0.3", "2"),
    ],
)
def test_zero3_where_a_rank_has_no_latents(tmp_path, supervision, source, noise, loops):
    """Every weight is sharded, so all ranks must run the same modules, also one whose rows are all text."""
    options = [
        f"latent.thought_source={source}", f"curriculum.noise={noise}", f"latent.loops={loops}",
        "rl=null", "curriculum.mix_earlier=0.9", f"curriculum.supervision={supervision}",
        "curriculum.supervision_options={}", "curriculum.trainer.max_steps=12", "curriculum.trainer.save_steps=50",
    ]  # fmt: skip
    _, expected = train_tiny("cpu", tmp_path / "one", *batches(1, 2), *options)
    _, losses = train_tiny("sharded", tmp_path / "two", *batches(1, 1), *options)
    assert [two["loss"] for two in losses] == pytest.approx([one["loss"] for one in expected], abs=2e-3)


@pytest.mark.slow
def test_labelled_loops_on_two_processes_are_those_of_one(tmp_path):
    """The mean over slots is one over all processes and micro-batches; in RL the rollouts keep their labels."""
    labelled = [
        "latent.loops=2", "curriculum.supervision=step_tokens", "curriculum.supervision_options={label_padding: true}",
        "curriculum.mix_earlier=0.5", "rl.step_tokens_weight=0.3", "rl.noise=gaussian:0.3",
    ]  # fmt: skip
    _, expected = train_tiny("cpu", tmp_path / "one", *batches(4, 2), *labelled)
    _, losses = train_tiny("ddp", tmp_path / "two", *batches(4, 1), *labelled)
    assert [two["loss"] for two in losses] == pytest.approx([one["loss"] for one in expected], abs=2e-4)


@pytest.mark.slow
@needs_compiler
def test_bfloat16_is_the_same_precision_under_zero3(tmp_path):
    """Products in bfloat16 over weights in float32: a DeepSpeed that cast the weights would save them so."""
    bf16 = ["model.dtype=bfloat16", "rl.trainer.max_steps=2"]
    _, expected = train_tiny("cpu", tmp_path / "one", *batches(4, 2), *bf16)
    folder, losses = train_tiny("zero3", tmp_path / "two", *batches(4, 1), *bf16)
    assert [row["loss"] for row in losses] == pytest.approx([row["loss"] for row in expected], abs=2e-2)
    _, exact = train_tiny("cpu", tmp_path / "exact", *batches(4, 2), "rl=null")
    assert [row["loss"] for row in expected] != [row["loss"] for row in exact]
    for stage in ("curriculum", "rl"):
        trained = load_file(folder / stage / "final" / "model.safetensors")
        assert {weight.dtype for weight in trained.values()} == {torch.float32}
        rounded = [torch.equal(weight, weight.bfloat16().float()) for name, weight in trained.items() if "c_" in name]
        assert not any(rounded)


ALGORITHMS = [
    *(pytest.param(*kind, *config.values, marks=config.marks) for config in CONFIGS
      for kind in (("replay", "dapo"), ("score_function_rsqrt_d", "dapo"), ("ppo", "dapo"))),
    pytest.param("replay", "dr_grpo", "ddp"),
    pytest.param("looped", "dapo", "zero3", marks=needs_compiler),
]  # fmt: skip


def step(config, kind, loss_type, folder, accumulation):
    """Loss, processes and weights after one step on the recorded rollouts of a folder."""
    output = folder / f"{config}.{loss_type}"
    rollout_file = folder / "rollouts.safetensors"
    launch(config, "tests/recorded_step.py", kind, folder / "base", rollout_file, output, accumulation)
    return json.loads((output / "report.json").read_text()) | {"weights": load_file(output / "model.safetensors")}


@pytest.fixture(scope="module")
def steps_of_one_process():
    """Folders with recorded rollouts and what one process makes of them, by kind and loss: for all configs the same."""
    return {}


@pytest.fixture
def recorded(steps_of_one_process, make, problems, tmp_path_factory, kind, loss_type):
    if (kind, loss_type) not in steps_of_one_process:
        folder = tmp_path_factory.mktemp("recorded")
        reasoner = make(num_latents=3, **({"loops": 2} if kind == "looped" else {}))
        reasoner.save_pretrained(folder / "base")
        trainer = recorded_trainer(kind, reasoner, problems, folder)
        inputs = {name: value.contiguous() for name, value in rollouts(trainer).items()}
        assert inputs["advantages"].abs().sum() > 0
        save_file(inputs, folder / "rollouts.safetensors")
        steps_of_one_process[kind, loss_type] = folder, step("cpu", kind, loss_type, folder, 2)
    return steps_of_one_process[kind, loss_type]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss_type", "config"), ALGORITHMS)
def test_rl_loss_and_gradients_are_those_of_one_process(recorded, kind, loss_type, config):
    folder, one = recorded
    two = step(config, kind, loss_type, folder, 1)
    assert one["processes"] == 1 and two["processes"] == 2 and TYPES[config] in two["type"]
    assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    start = load_file(folder / "base" / "model.safetensors")
    if kind == "ppo":  # the value head begins as 0
        start |= {key: torch.zeros_like(w) for key, w in one["weights"].items() if key.startswith("value_head.")}
        assert len(start) == len(one["weights"])
    for key, before in start.items():
        gradient, other = before - one["weights"][key], before - two["weights"][key]
        assert gradient.any() or "wpe" in key
        assert (gradient - other).norm() <= 1e-4 * gradient.norm() + 1e-6, key


def test_every_accelerate_config_is_listed_and_parses():
    names = {path.stem: yaml.safe_load(path.read_text()) for path in (ROOT / "recipes/accelerate").glob("*.yaml")}
    assert set(names) == {"cpu", "ddp", "zero2", "zero3", "multinode"}
    assert names["multinode"]["num_machines"] == 2
