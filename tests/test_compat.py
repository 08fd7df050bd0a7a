"""Private parts of other libraries are what `system/compat.py` takes them for."""

import ast
import inspect
import re
import tomllib
from datetime import timedelta
from importlib.metadata import version

import pytest
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from conftest import ROOT
from test_grpo import make_trainer, rollouts
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MambaConfig, Trainer
from trl import GRPOTrainer

from neuralese.pipeline.system import compat
from neuralese.pipeline.train.rl.grpo import LatentGRPOTrainer
from neuralese.pipeline.train.rl.latent_trainer import LatentTrainer
from neuralese.pipeline.train.timed_trainer import TimedTrainer

SMALL = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=16, vocab_size=20)


@pytest.mark.parametrize("library", compat.CHECKED)
def test_the_installed_release_is_the_one_that_was_checked_and_the_next_is_shut_out(library):
    checked = compat.CHECKED[library]
    assert version(library).startswith(f"{checked}.")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["deepspeed"]]
    (bounds,) = (line for line in wanted if re.match(rf"{library}\b", line))
    major, minor = checked.split(".")
    assert bounds == f"{library}>={checked},<{major}.{int(minor) + 1}"


@pytest.mark.parametrize("name", compat.GRPO_HOOKS)
def test_a_hook_of_trl_takes_what_ours_counts_on(name):
    theirs = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)[1:]
    assert tuple(theirs[: len(compat.GRPO_HOOKS[name])]) == compat.GRPO_HOOKS[name]
    assert getattr(LatentGRPOTrainer, name) is not getattr(GRPOTrainer, name)


@pytest.mark.parametrize("name", compat.TRAINER_HOOKS)
def test_a_hook_of_transformers_takes_what_ours_gives_on(name):
    theirs = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert tuple(theirs) == compat.TRAINER_HOOKS[name]
    assert f"self.{name}(" in inspect.getsource(Trainer)
    assert getattr(TimedTrainer, name) is not getattr(Trainer, name)


def test_every_hook_of_ours_is_listed():
    members = vars(LatentTrainer) | vars(LatentGRPOTrainer)
    ours = {name for name, value in members.items() if inspect.isfunction(value)}
    overridden = {name for name in ours if name.startswith("_") and hasattr(GRPOTrainer, name)} - {"__init__"}
    assert overridden == set(compat.GRPO_HOOKS)
    private = {name for name, value in vars(TimedTrainer).items() if inspect.isfunction(value) and name[0] == "_"}
    assert private - {"__init__"} == {name for name in compat.TRAINER_HOOKS if name[0] == "_"}


def test_trl_takes_prompts_that_were_put_in_place_of_its_own(reasoner, problems, tmp_path, monkeypatch):
    original, shorter = LatentGRPOTrainer._generate_single_turn, []

    def cut(self, prompt_ids, *args):
        found = original(self, prompt_ids, *args)
        shorter.extend(ids[: 3 + place % 2] for place, ids in enumerate(prompt_ids))
        compat.replace_prompts(prompt_ids, shorter)
        return found

    monkeypatch.setattr(LatentGRPOTrainer, "_generate_single_turn", cut)
    inputs = rollouts(make_trainer(reasoner, problems, tmp_path))
    taken = [ids[mask.bool()].tolist() for ids, mask in zip(inputs["prompt_ids"], inputs["prompt_mask"], strict=True)]
    assert sorted(taken) == sorted(shorter) and inputs["prompt_ids"].size(1) == 4


def test_trl_keeps_metrics_completions_and_its_tokenizer_where_they_are_looked_for(reasoner, problems, tmp_path):
    trainer = make_trainer(reasoner, problems, tmp_path)
    rollouts(trainer)
    assert compat.logged_metric(trainer, "reward") and compat.logged_metric(trainer, "new name") == []
    compat.forget_metric(trainer, "new name")
    assert "new name" not in trainer._metrics["train"]
    logs = compat.latest_completions(trainer)
    assert len(logs["prompt"]) == len(logs["completion"]) == len(logs["advantages"]) == 16 and logs["rewards"]
    assert compat.rollout_tokenizer(trainer) is reasoner.tokenizer
    assert "accelerator" in vars(trainer) and AcceleratorState._shared_state
    compat.reset_accelerator_state()
    assert not AcceleratorState._shared_state


def test_transformers_says_which_attention_a_model_runs_and_whether_it_keeps_a_state():
    for name in ("eager", "sdpa"):
        model = AutoModelForCausalLM.from_config(SMALL, attn_implementation=name)
        assert compat.attention_implementation(model.config) == name
        assert not compat.keeps_a_recurrent_state(model)
    mamba = MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=20, state_size=4)
    assert compat.keeps_a_recurrent_state(AutoModelForCausalLM.from_config(mamba))


def test_a_file_that_a_checkpoint_lacks_is_none(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert compat.find_file(str(tmp_path), "config.json") == str(tmp_path / "config.json")
    assert compat.find_file(str(tmp_path), "model.safetensors") is None
    with pytest.raises(OSError, match="model.safetensors"):
        compat.find_file(str(tmp_path), "model.safetensors", required=True)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_layers_keep_their_cache_inside_the_block_alone(reentrant):
    model = GPT2LMHeadModel(SMALL).train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    layers = list(model.transformer.h)
    assert all(compat.checkpoints_reentrantly(layer) == reentrant for layer in layers)
    source = inspect.getsource(inspect.getmodule(type(layers[0]).__mro__[1]))
    assert "_can_checkpoint_with_cache" in source  # the flag that Transformers asks for
    with compat.checkpointing_with_cache(layers):
        assert all(layer._can_checkpoint_with_cache for layer in layers)
    assert not any("_can_checkpoint_with_cache" in vars(layer) for layer in layers)


def test_a_model_that_is_compiled_in_parts_is_told():
    model = GPT2LMHeadModel(SMALL)
    assert not compat.is_compiled(model)
    model.transformer.h[0].compile()
    assert compat.is_compiled(model) and compat.is_compiled(torch.compile(GPT2LMHeadModel(SMALL)))


def test_a_weight_of_an_ordinary_model_is_not_sharded():
    """What ZeRO-3 makes of weights is tested with two processes, in test_distributed.py."""
    assert not compat.is_sharded(GPT2LMHeadModel(SMALL).transformer.wte.weight)


def test_no_other_file_reaches_into_a_library():
    """Attributes with a leading underscore are used on `self`, `cls` and `super()` alone."""
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        if path.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_[a-z]", node.attr):
                owner = ast.unparse(node.value)
                if owner not in ("self", "cls", "super()", "os") and node.attr not in ("_replace", "_checked"):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno} {owner}.{node.attr}")
    assert found == []


def test_patience_holds_for_all_groups_of_processes():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        groups = [dist.group.WORLD, dist.new_group([0])]
        compat.set_collective_timeout(7)
        waits = [group._get_backend(torch.device("cpu")).options._timeout for group in groups]
        assert waits == [timedelta(seconds=7)] * 2
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    "options",
    [{}, {"num_iterations": 2}, {"per_device_train_batch_size": 8, "steps_per_generation": 2},
     {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
     {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "num_iterations": 2}],
)  # fmt: skip
def test_when_trl_asks_for_log_probs_of_the_weights_that_drew(reasoner, problems, tmp_path, monkeypatch, options):
    asked = []
    monkeypatch.setattr(
        LatentTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: asked.append(1) or (None, None, None)
    )
    trainer = make_trainer(reasoner, problems, tmp_path, **options)
    rollouts(trainer)
    assert len(asked) == compat.asks_old_logps(trainer)
