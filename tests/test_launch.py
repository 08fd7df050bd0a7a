"""What launchers may not ask for, and keys of trainer sections that would say it another way."""

import pytest
from runs import tiny

from neuralese.data.errors import UserError
from neuralese.pipeline.run.launch import LaunchError, check_launcher
from neuralese.pipeline.run.validate import check_recipe


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ACCELERATE_USE_FSDP", "true", "FSDP .* refused: rollouts run parts .* recipes/accelerate/zero3.yaml"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM, which is refused"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "parallelism_config, which is refused"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "torch.compile .dynamo backend inductor"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "mixed_precision=bf16, but the recipe's model.dtype says"),
    ],
)
def test_a_launch_that_would_crash_or_compute_otherwise_is_refused(monkeypatch, tmp_path, name, value, message):
    check_launcher()
    monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=message):
        check_recipe(tiny(tmp_path))


@pytest.mark.parametrize("value", ["no", "NO"])
def test_what_launchers_set_by_themselves_is_no_fault(monkeypatch, value):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", value)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", value)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    check_launcher()


@pytest.mark.parametrize("section", ["sft", "curriculum", "rl"])
@pytest.mark.parametrize(
    ("option", "owner"),
    [("bf16=true", "model.dtype"), ("fp16=true", "model.dtype"), ("bf16=false", "model.dtype"),
     ("torch_compile=true", "model.compile, layer by layer"), ("fsdp=full_shard", "the launcher")],
)  # fmt: skip
def test_one_key_says_the_precision(tmp_path, section, option, owner):
    key = f"{section}.trainer.{option}"
    with pytest.raises(UserError, match=f"{key.partition('=')[0]} is set by {owner}"):
        check_recipe(tiny(tmp_path, key))
