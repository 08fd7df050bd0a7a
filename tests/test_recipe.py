"""Recipes: strict keys, overrides, errors that say what to change."""

from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from neuralese.data.errors import UserError
from neuralese.pipeline.recipe import RecipeError, load_recipe, parse_recipe
from neuralese.pipeline.validate import check_recipe

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
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
        ("data.train.path=x.jsonl", "exactly one of task, path and dataset"),
        ("data.train.size=null", "needs a size"),
        ("controls.pause=true", "controls train under the curriculum section"),
        ("name=a/b", "name: .*pattern"),
        ("seed", "is not of the form key=value"),
        ("name.x=1", "name is no section"),
        ("name=[", "is no valid YAML"),
    ],
)
def test_bad_overrides_are_explained(recipe_file, override, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a", "must hold a mapping"), ("a: [", "no valid YAML"), ("name: x", "key 'model' is missing")],
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
