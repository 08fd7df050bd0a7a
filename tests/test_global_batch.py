"""A run that goes on under another number of processes: the batches of its steps stay, or it is refused."""

import json

import pytest
from checkpoint_files import make_checkpoint
from runs import tiny

from neuralese.pipeline.run.global_batch import FILE, ProcessesError, record_processes, with_global_batch
from neuralese.pipeline.run.plan import plan


def begun(folder, processes, *overrides):
    """The recipe of a run that was begun under so many processes, and has trained something."""
    recipe = tiny(folder, *overrides)
    recipe.folder.mkdir()
    record_processes(recipe.folder, processes)
    (recipe.folder / "sft").mkdir()
    return recipe


def batch(trainer):
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
    return tuple(trainer[name] for name in names if name in trainer)


@pytest.mark.parametrize(
    ("then", "now", "given", "expected"),
    [
        (2, 1, (8,), (8, 2)),
        (2, 4, (8, 4), (8, 2)),
        (1, 2, (8,), (4, 1)),  # fewer at once where accumulation alone cannot make up
        (1, 8, (8,), (1, 1)),
        (3, 2, (8, 1), (6, 2)),
        (4, 1, (2, 3), (2, 12)),
    ],
)
def test_a_step_keeps_its_batch(tmp_path, then, now, given, expected):
    keys = ("per_device_train_batch_size", "gradient_accumulation_steps")
    overrides = [f"sft.trainer.{key}={value}" for key, value in zip(keys, given, strict=False)]
    recipe = with_global_batch(begun(tmp_path, then, *overrides), now)
    assert batch(recipe.sft.trainer) == expected


@pytest.mark.parametrize(("draw", "expected"), [(2, (8, 2, 4)), (3, (8, 2, 6)), (1, (8, 2, 2))])
def test_a_draw_keeps_its_rollouts(tmp_path, draw, expected):
    recipe = with_global_batch(begun(tmp_path, 2, f"rl.trainer.steps_per_generation={draw}"), 1)
    assert batch(recipe.rl.trainer) == expected


def test_defaults_count_and_the_last_level_has_its_own(tmp_path):
    recipe = begun(tmp_path, 2, "curriculum.last_level_trainer={gradient_accumulation_steps: 3}")
    del recipe.curriculum.trainer["per_device_train_batch_size"]  # 8 in Transformers
    section = with_global_batch(recipe, 1).curriculum
    assert batch(section.trainer) == (8, 2) and batch(section.last_level_trainer) == (8, 6)
    assert "per_device_train_batch_size" not in recipe.curriculum.trainer


def test_a_last_level_without_a_batch_of_its_own_has_that_of_all(tmp_path):
    recipe = with_global_batch(begun(tmp_path, 2, "curriculum.last_level_trainer={max_steps: 6}"), 1)
    assert recipe.curriculum.last_level_trainer == {"max_steps": 6}


def test_the_same_number_changes_nothing(tmp_path, capsys):
    recipe = begun(tmp_path, 2)
    assert with_global_batch(recipe, 2) is recipe and not capsys.readouterr().out


def test_what_changes_is_said(tmp_path, capsys):
    with_global_batch(begun(tmp_path, 2, "rl=null"), 1)
    said = "Begun on 2 processes. The batches of its steps are kept: sft 1 x 8 x 2, curriculum 1 x 8 x 2\n"
    assert capsys.readouterr().out == said


def test_processes_that_cannot_share_out_a_batch_are_refused_with_the_sum(tmp_path):
    with pytest.raises(ProcessesError) as refused:
        with_global_batch(begun(tmp_path, 2), 3)
    assert "begun on 2 processes with 2 x 8 x 1 = 16 problems an optimizer step" in str(refused.value)
    assert "sft.trainer.per_device_train_batch_size" in str(refused.value)
    assert "Launch one of 1, 2, 4, 8, 16 processes" in str(refused.value)


def test_an_order_that_depends_on_the_batch_is_warned_of(tmp_path, caplog):
    recipe = begun(tmp_path, 2, "sft.trainer.train_sampling_strategy=group_by_length")
    with_global_batch(recipe, 1)
    assert "sft.trainer.train_sampling_strategy=group_by_length" in caplog.text and "seen twice" in caplog.text


def recorded(recipe):
    return json.loads((recipe.folder / FILE).read_text())["processes"]


def test_a_run_that_trained_nothing_is_begun_anew(tmp_path):
    recipe = begun(tmp_path, 2)
    (recipe.folder / "sft").rmdir()
    assert with_global_batch(recipe, 3) is recipe
    record_processes(recipe.folder, 3)
    assert recorded(recipe) == 3


@pytest.mark.parametrize("place", ["sft", "curriculum/level-1"])
def test_the_checkpoints_of_a_run_of_an_earlier_version_tell(tmp_path, place):
    recipe = begun(tmp_path, 2)
    (recipe.folder / FILE).unlink()
    make_checkpoint(recipe.folder / place / "checkpoint-2", processes=4)
    assert batch(with_global_batch(recipe, 1).sft.trainer) == (8, 4)
    record_processes(recipe.folder, 1)
    assert not (recipe.folder / FILE).exists()


def test_between_stages_a_run_of_an_earlier_version_is_free(tmp_path):
    recipe = begun(tmp_path, 2)
    (recipe.folder / FILE).unlink()
    assert with_global_batch(recipe, 1) is recipe
    record_processes(recipe.folder, 1)
    assert recorded(recipe) == 1


def test_a_finished_run_may_be_measured_by_any_number(tmp_path):
    recipe = begun(tmp_path, 2)
    for stage in plan(recipe):
        (recipe.folder / stage.name / "final").mkdir(parents=True)
    assert with_global_batch(recipe, 3) is recipe


@pytest.mark.parametrize(
    ("then", "now", "given", "expected"),
    [
        # 16 rollouts a draw, of which 16 processes could take one each: two make a pair
        (2, 8, ["rl.antithetic=true"], (2, 1)),
        (4, 2, ["rl.trainer.generation_batch_size=16", "rl.trainer.gradient_accumulation_steps=2"], (8, 4)),
        (2, 4, ["rl.trainer.generation_batch_size=8"], (2, 2)),  # the draw is smaller than the step
    ],
)
def test_a_process_draws_whole_thoughts_and_whole_draws(tmp_path, then, now, given, expected):
    trainer = with_global_batch(begun(tmp_path, then, *given), now).rl.trainer
    assert batch(trainer) == expected


@pytest.mark.parametrize("given", ["rl.antithetic=true", "rl.trainer.generation_batch_size=8"])
def test_a_draw_that_cannot_be_shared_out_is_refused(tmp_path, given):
    with pytest.raises(ProcessesError, match=r"rl.trainer.*Launch one of 1, 2, 4, 8 processes"):
        with_global_batch(begun(tmp_path, 2, given), 16)


def test_null_is_the_default(tmp_path):
    recipe = with_global_batch(begun(tmp_path, 2, "sft.trainer.gradient_accumulation_steps=null"), 1)
    assert batch(recipe.sft.trainer) == (8, 2)
