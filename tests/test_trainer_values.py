"""What a `trainer:` section may hold. The messages are rows of docs/reliability.md."""

import pytest
from runs import tiny
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from neuralese.pipeline.recipe.load import RecipeError
from neuralese.pipeline.train.curriculum.limits import curriculum_args
from neuralese.pipeline.train.rl.settings import grpo_args
from neuralese.pipeline.train.sft import sft_args


def test_null_is_the_default_where_a_field_takes_no_null(tmp_path):
    recipe = tiny(
        tmp_path, "sft.trainer.max_steps=null", "sft.trainer.num_train_epochs=2", "rl.trainer.epsilon_high=null"
    )
    args = sft_args(recipe, tmp_path)
    assert (args.max_steps, args.num_train_epochs) == (-1, 2)
    assert grpo_args(recipe, tmp_path).epsilon_high is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warmup_steps", 0.5),
        ("weight_decay", 0),
        ("max_grad_norm", 0),
        ("learning_rate", 1),  # a whole number for a float
        ("packing", False),
        ("max_steps", -1),
    ],
)
def test_values_at_the_edge_are_taken(tmp_path, name, value):
    args = sft_args(tiny(tmp_path, f"sft.trainer.{name}={str(value).lower()}"), tmp_path)
    assert vars(args)[name] == value


@pytest.mark.parametrize("given", ["no", "'no'"])
def test_no_strategy_may_be_written_without_quotes(tmp_path, given):
    """YAML reads it as false."""
    recipe = tiny(tmp_path, f"sft.trainer.save_strategy={given}", f"rl.trainer.logging_strategy={given}")
    assert sft_args(recipe, tmp_path).save_strategy == "no" and grpo_args(recipe, tmp_path).logging_strategy == "no"


def test_the_home_folder_of_a_deepspeed_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")  # which the config class sets, to be set back
    (tmp_path / "zero.json").write_text('{"zero_optimization": {"stage": 2}}')
    args = sft_args(tiny(tmp_path, "sft.trainer.deepspeed=~/zero.json"), tmp_path)
    unset_hf_deepspeed_config()
    assert args.deepspeed == str(tmp_path / "zero.json")


def test_the_last_stage_is_checked_under_its_own_key(tmp_path):
    recipe = tiny(tmp_path, "curriculum.last_level_trainer={learning_rate: -1}")
    with pytest.raises(RecipeError, match="curriculum.last_level_trainer.learning_rate=-1"):
        curriculum_args(recipe, tmp_path, is_last=True)
    curriculum_args(recipe, tmp_path)


def test_values_that_need_each_other(tmp_path):
    with pytest.raises(RecipeError, match="sync_ref_model=True needs beta above 0"):
        grpo_args(tiny(tmp_path, "rl.trainer.sync_ref_model=true"), tmp_path)
    assert grpo_args(tiny(tmp_path, "rl.trainer.sync_ref_model=true", "rl.trainer.beta=0.1"), tmp_path).sync_ref_model
    with pytest.raises(RecipeError, match="dataloader_persistent_workers=True needs dataloader_num_workers above 0"):
        sft_args(tiny(tmp_path, "sft.trainer.dataloader_persistent_workers=true"), tmp_path)
    with pytest.raises(RecipeError, match="pad_to_multiple_of=0: Input should be greater than or equal to 1"):
        sft_args(tiny(tmp_path, "sft.trainer.pad_to_multiple_of=0"), tmp_path)
    with pytest.raises(RecipeError, match="max_length=8 does not work here: problems are taken whole.* Remove it\\.$"):
        sft_args(tiny(tmp_path, "sft.trainer.max_length=8"), tmp_path)
