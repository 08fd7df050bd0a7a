"""Recipes: strict keys, overrides, errors that say what to change."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from neuralese.data.errors import UserError
from neuralese.pipeline.recipe import schema
from neuralese.pipeline.recipe.load import RecipeError, load_recipe, parse_recipe
from neuralese.pipeline.recipe.schema import ControlsSection
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.train.curriculum.arms import latent_levels
from neuralese.pipeline.train.curriculum.limits import curriculum_args

RECIPES = sorted(path for pattern in ("*.yaml", "controls/*.yaml") for path in (ROOT / "recipes").glob(pattern))
MINIMAL = {
    "name": "x",
    "model": {"config": {"model_type": "gpt2"}},
    "data": {"train": {"task": "chain", "size": 10}, "eval": {"task": "chain", "size": 10}},
    "sft": {"trainer": {"max_steps": 1}},
}


@pytest.fixture
def recipe_file(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_all_recipes_are_found():
    assert {path.stem for path in RECIPES} >= {"quickstart", "gsm8k_gpt2", "gsm8k_llama1b_lora", "prosqa_gpt2"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_survives_a_round_trip(path):
    recipe = load_recipe(path)
    check_recipe(recipe)
    assert parse_recipe(yaml.safe_load(recipe.to_yaml()), "again") == recipe
    assert path.read_text().startswith("# ")  # what `neuralese recipes list` shows


def test_every_section_and_every_key_says_what_it_is_for():
    sections = [one for one in vars(schema).values() if isinstance(one, type) and issubclass(one, schema.Section)]
    assert len(sections) > 10 and all(one.__doc__ for one in sections)
    keys = [(one.__name__, name, key.description) for one in sections for name, key in one.model_fields.items()]
    assert len(keys) > 100
    assert [(section, name) for section, name, description in keys if not description] == []


def test_every_control_has_a_recipe_and_one_key():
    names = {path.stem for path in RECIPES if path.parent.name == "controls"}
    assert names == set(ControlsSection.model_fields) - {"latent"}
    for name in names:
        base = load_recipe(ROOT / "recipes" / f"{'quickstart' if name == 'more_supervised' else 'chain5'}.yaml")
        control = load_recipe(ROOT / "recipes" / "controls" / f"{name}.yaml")
        assert control.controls.chosen == [name]
        assert control.model_copy(update={"name": base.name, "controls": base.controls}) == base


def test_old_names_are_read_with_a_warning(caplog):
    old = {"steps_per_stage": 2, "last_stage_at": 0.5, "last_stage_trainer": {"max_steps": 3}, "promote_at": 0.9}
    new = {"steps_per_level": 2, "last_level_at": 0.5, "last_level_trainer": {"max_steps": 3}, "promote_at": 0.9}
    assert parse_recipe({**MINIMAL, "curriculum": old}, "x.yaml") == parse_recipe({**MINIMAL, "curriculum": new}, "")
    assert len(caplog.records) == 3
    assert "x.yaml: curriculum.last_stage_at is called curriculum.last_level_at now. Rename the key." in caplog.text
    caplog.clear()
    rl = parse_recipe({**MINIMAL, "rl": {"estimator": "score_rsqrt_d"}}, "x.yaml").rl
    assert rl.estimator == "score_function_rsqrt_d"
    assert "rl.estimator=score_rsqrt_d is called score_function_rsqrt_d now" in caplog.text
    with pytest.raises(RecipeError, match="last_stage_at is the old name of curriculum.last_level_at. Remove one"):
        parse_recipe({**MINIMAL, "curriculum": {"last_stage_at": 0.5, "last_level_at": 0.5}}, "x.yaml")


def test_a_recipe_that_extends_another_holds_only_what_differs(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(MINIMAL | {"evaluate": {"problems": 7, "num_samples": 16}}))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "child.yaml").write_text("extends: ../base.yaml\nname: child\nevaluate: {problems: 9}\n")
    child = load_recipe(tmp_path / "inner" / "child.yaml", ["seed=4"])
    assert (child.name, child.seed, child.evaluate.problems, child.evaluate.num_samples) == ("child", 4, 9, 16)
    assert child.sft == load_recipe(tmp_path / "base.yaml").sft
    (tmp_path / "none.yaml").write_text("extends: base.yaml\nsft: null\n")
    assert load_recipe(tmp_path / "none.yaml").sft is None
    (tmp_path / "base.yaml").write_text("extends: inner/child.yaml\n")
    with pytest.raises(RecipeError, match="extends itself, by way of"):
        load_recipe(tmp_path / "inner" / "child.yaml")
    (tmp_path / "base.yaml").write_text("extends: [1]\n")
    with pytest.raises(RecipeError, match=r"extends=\[1\] must be the path of a recipe"):
        load_recipe(tmp_path / "inner" / "child.yaml")
    (tmp_path / "base.yaml").write_text("extends: inner/chidl.yaml\n")
    with pytest.raises(RecipeError, match="No recipe at .*did you mean 'child.yaml'"):
        load_recipe(tmp_path / "base.yaml")


@pytest.mark.parametrize(
    ("preset", "latents", "epochs", "longest", "removed"),
    [
        ("coconut-gsm8k", [2, 4, 6, 6], [3, 3, 3, 13], 8, [1, 2, 3, None]),
        ("coconut-prosqa", [1, 2, 3, 4, 5, 6], [5, 5, 5, 5, 5, 20], 6, [1, 2, 3, 4, 5, 6]),
        ("coconut-prontoqa", [1, 2, 3, 4, 5, 6, 6], [5, 5, 5, 5, 5, 5, 15], 10, [1, 2, 3, 4, 5, 6, None]),
        ("lotus-gsm8k-gpt2", [13, 26, 39, 52, 65, 78], [1, 1, 1, 1, 1, 24], 8, [1, 2, 3, 4, 5, 8]),
        ("lotus-gsm8k-llama", [25, 50, 75, 100, 125, 150], [1, 1, 1, 1, 1, 94], 6, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_presets_are_the_published_schedules(recipe_file, preset, latents, epochs, longest, removed):
    """The level of each epoch, as `epoch // epochs_per_stage` in the published code gives it, and its latents."""
    recipe = load_recipe(recipe_file, [f"curriculum={{preset: {preset}}}", "controls.latent=true"])
    planned = latent_levels(recipe, longest)
    assert [level.num_latents for level in planned] == latents
    assert [level.removed_steps for level in planned] == removed
    args = [curriculum_args(recipe, recipe.folder, level is planned[-1]) for level in planned]
    assert [of.num_train_epochs for of in args] == epochs
    assert all((of.learning_rate, of.weight_decay, of.lr_scheduler_type) == (1e-4, 0.01, "constant") for of in args)
    assert recipe.latent.thought_source == "raw" and recipe.latent.delimiters and recipe.curriculum.promote_at is None
    own = load_recipe(recipe_file, [f"curriculum={{preset: {preset}, trainer: {{learning_rate: 3e-5}}}}"])
    assert own.curriculum.trainer["learning_rate"] == 3e-5 and own.curriculum.trainer["weight_decay"] == 0.01


def test_overrides_set_nested_keys_with_yaml_values(recipe_file):
    recipe = load_recipe(
        recipe_file, ["seed=3", "sft.trainer.learning_rate=1e-5", "rl.noise=null", "evaluate.k=[1, 2]"]
    )
    assert recipe.seed == 3
    assert recipe.sft.trainer["learning_rate"] == 1e-5  # a number, not the string YAML 1.1 makes of it
    assert recipe.rl.noise is None
    assert recipe.evaluate.k == [1, 2]


def test_numbers_with_exponents_are_numbers_in_files(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(MINIMAL).replace("max_steps: 1", "max_steps: 1\n    learning_rate: 3e-4"))
    assert load_recipe(path).sft.trainer["learning_rate"] == 3e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("curiculum={}", "unknown key 'curiculum', did you mean 'curriculum'"),
        ("sft.trainr={}", "unknown key 'sft.trainr', did you mean 'trainer'"),
        ("data.train.columms={}", "unknown key 'data.train.columms', did you mean 'columns'"),
        ("rl.rewards=[{functoin: x}]", "unknown key 'rl.rewards.0.functoin', did you mean 'function'"),
        ("seed=abc", "seed: .*integer.*received 'abc'"),
        ("curriculum.promote_at=2", "curriculum.promote_at: .*received 2"),
        ("evaluate.k=[32]", "k=\\[32\\] must lie between 1 and num_samples=16"),
        ("evaluate.sampling=[{temperature: 0}]", "all samples are equal"),
        ("model.name_or_path=gpt2", "exactly one of name_or_path"),
        ("data.train.path=x.jsonl", "exactly one of task, reasoning_gym, path and dataset"),
        ("data.train.size=null", "needs a size"),
        ("controls.pause=true", "controls train under the curriculum section"),
        ("name=a/b", "name: .*pattern"),
        ("seed", "is not of the form key=value"),
        ("name.x=1", "name is no section"),
        ("name=[", "is no valid YAML"),
        ("sft={trainer: {a: 1, a: 2}}", "the key 'a' stands twice"),
    ],
)
def test_bad_overrides_are_explained(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", "must hold a mapping"),
        ("a: [", "no valid YAML"),
        ("name: x", "key 'model' is missing"),
        ("seed: 1\nname: x\nseed: 2", r"no valid YAML: the key 'seed' stands twice .* line 3, column 1"),
        ("sft:\n  trainer: {a: 1, a: 2}", r"the key 'a' stands twice .* line 2, column 19"),
    ],
)
def test_bad_files_are_explained(tmp_path, text, message):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_a_missing_file_names_its_neighbour(recipe_file):
    with pytest.raises(RecipeError, match="did you mean 'x.yaml'"):
        load_recipe(recipe_file.with_name("xx.yaml"))


def test_yaml_cannot_construct_objects(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: !!python/object/apply:os.getcwd []")
    with pytest.raises(RecipeError, match="no valid YAML"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sft.trainer.learnin_rate=1", "'sft.trainer.learnin_rate', did you mean 'learning_rate'"),
        ("sft.trainer.zzzz=1", "no field of SFTConfig"),
        ("sft.trainer.seed=1", "set by the recipe's seed"),
        ("rl.trainer.num_generation=4", "did you mean 'num_generations'"),
        ("rl.noise=gausian:0.3", "Unknown noise 'gausian:0.3'"),
        ("rl.rewards=[{function: exact_mach}]", "exact_match"),
        ("evaluate.scorer=nowhere.py:f", "nowhere.py"),
        ("latent.thought_source=norm_match", "thought_source 'norm_match', did you mean 'norm_matched'"),
    ],
)
def test_check_finds_what_would_fail_later(recipe_file, override, message):
    with pytest.raises(UserError, match=message):
        check_recipe(load_recipe(recipe_file, [override]))


def test_no_secrets_or_paths_of_this_machine_in_recipes():
    for path in RECIPES:
        text = path.read_text()
        assert str(Path.home()) not in text and "token:" not in text
