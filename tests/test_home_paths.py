"""`~` is the home folder, once, wherever a path is read."""

import json
import shutil

import pytest
from runs import TINY, tiny

from neuralese.data.loading import load_problems
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.recipe.load import load_recipe


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def test_every_path_of_a_recipe(home):
    recipe = tiny(
        "~/runs", "data.train={path: ~/a.jsonl}", "data.eval={dataset: ~/b}", "model={name_or_path: ~/c}",
        "plugins=[~/d.py]", "rl.rewards=[{function: '~/e.py:f'}, {model: ~/g}]", "evaluate.scorer='~/h.py:i'",
        "evaluate.selectors=[latent_reward]", "evaluate.latent_reward=~/j",
    )  # fmt: skip
    assert str(recipe.folder) == f"{home}/runs/tiny"
    assert (recipe.data.train.path, recipe.data.eval.dataset) == (f"{home}/a.jsonl", f"{home}/b")
    assert recipe.model.name_or_path == f"{home}/c" and recipe.plugins == [f"{home}/d.py"]
    assert [recipe.rl.rewards[0].function, recipe.rl.rewards[1].model] == [f"{home}/e.py:f", f"{home}/g"]
    assert (recipe.evaluate.scorer, recipe.evaluate.latent_reward) == (f"{home}/h.py:i", f"{home}/j")
    assert "~" not in recipe.to_yaml()


def test_names_that_are_no_paths_stay(home):
    recipe = tiny("a/~/b", "model={name_or_path: org/model}", "evaluate.scorer=numeric_match")
    assert recipe.output_dir == "a/~/b" and recipe.model.name_or_path == "org/model"
    assert recipe.evaluate.scorer == "numeric_match"


def test_recipes_data_and_models_in_python(home, finished):
    (home / "my.yaml").write_text(f"extends: {TINY}\nname: mine\n")
    (home / "other.yaml").write_text("extends: ~/my.yaml\nseed: 3\n")
    assert load_recipe("~/other.yaml").name == "mine"
    (home / "rows.jsonl").write_text(json.dumps({"question": "1 + 1", "steps": ["2"], "answer": "2"}) + "\n")
    assert load_problems(path="~/rows.jsonl")[0].answer == "2"
    shutil.copytree(finished[0] / "rl" / "final", home / "model")
    assert load_reasoner("~/model").config.num_latents == 2


def test_options_that_the_shell_leaves_as_they_are(home, finished, capsys):
    main_arguments = ["compare", str(finished[0]), str(finished[0]), "-k", "1", "--output=~/found.json"]
    with pytest.raises(SystemExit) as stop:
        main(main_arguments)
    assert not stop.value.code and (home / "found.json").is_file()
    with pytest.raises(SystemExit) as stop:
        main([*main_arguments[:-1], "--output=~nobody-of-this-name/found.json"])
    assert stop.value.code == 2 and "nobody-of-this-name" in capsys.readouterr().err
