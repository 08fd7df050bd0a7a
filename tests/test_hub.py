"""What a run sends to the Hugging Face Hub at its end. A stand-in takes it; no server is asked."""

import logging
from types import SimpleNamespace

import pytest
import yaml
from huggingface_hub import HfApi
from runs import tiny

from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.run import hub
from neuralese.pipeline.run.hub import HubError, card, check_hub, push
from neuralese.pipeline.run.train import run

NAME = "tracking.push_to_hub=me/mine"


@pytest.fixture
def server(monkeypatch):
    """Takes what is sent: `repositories` by name, with the files of the latest commit."""
    found = SimpleNamespace(repositories={}, there=set())
    monkeypatch.setattr(hub, "get_token", lambda: "hf_secret")

    def create_repo(self, name, private, exist_ok):
        assert private and exist_ok
        found.repositories.setdefault(name, {})

    def create_commit(self, name, operations, commit_message):
        files = {one.path_in_repo: one.path_or_fileobj for one in operations}
        found.repositories[name], found.message = files, commit_message
        return SimpleNamespace(commit_url=f"https://hub.example/{name}/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "file_exists", lambda self, name, file: file in found.there)
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    return found


def test_a_run_sends_its_last_stage(server, tmp_path, capsys):
    run(tiny(tmp_path, NAME, "rl=null", "tracking.wandb=false", "evaluate.num_samples=1", "evaluate.k=[1]"))
    folder = tmp_path / "tiny"
    sent = server.repositories["me/mine"]
    weights = folder / "curriculum" / "final"
    assert {name for name, file in sent.items() if not isinstance(file, bytes)} == {
        "recipe.yaml", "results.json", *(path.name for path in weights.iterdir())
    }  # fmt: skip
    assert (
        sent["model.safetensors"] == str(weights / "model.safetensors") and server.message == "tiny: curriculum, seed 0"
    )
    head, text = sent["README.md"].decode().split("---\n")[1:]
    assert yaml.safe_load(head) == {"tags": ["latent-reasoning", "neuralese"]}
    assert (
        'load_reasoner("me/mine")' in text and "| latent after curriculum | T 1 |" in text and "hf_secret" not in text
    )
    assert "Hub          https://hub.example/me/mine/commit/1" in capsys.readouterr().out


def test_a_card_that_is_there_stays(server, finished):
    server.there.add("README.md")
    push(tiny(finished[0].parent, NAME), "rl", finished[0] / "rl" / "final", finished[1])
    assert "README.md" not in server.repositories["me/mine"]


@pytest.mark.parametrize(("model", "named"), [("gpt2", {"base_model": "gpt2"}), (".", {})])
def test_a_base_model_is_named_where_others_can_have_it(finished, model, named):
    recipe = tiny(finished[0].parent, NAME, "model.config=null", f"model.name_or_path={model}")
    head = str(card(recipe, "rl", read_results(finished[0] / "results.json"))).split("---\n")[1]
    assert yaml.safe_load(head) == {**named, "tags": ["latent-reasoning", "neuralese"]}


def test_what_fails_is_a_warning_with_the_command_that_sends_it(server, finished, monkeypatch, caplog):
    def refuse(self, *_, **__):
        raise OSError("403 Forbidden: you may not write here\nRequest ID: 1")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    checkpoint = finished[0] / "rl" / "final"
    with caplog.at_level(logging.WARNING):
        push(tiny(finished[0].parent, NAME), "rl", checkpoint, finished[1])
    assert "did not take me/mine (403 Forbidden: you may not write here). Nothing is lost" in caplog.text
    assert f"hf upload me/mine {checkpoint}" in caplog.text


@pytest.mark.parametrize("name", ["mine", "me/mine/more", "me/mi ne", "/mine"])
def test_a_name_that_is_none_is_refused_before_training(server, tmp_path, name):
    with pytest.raises(HubError, match="is no name on the Hub. Write OWNER/NAME"):
        check_hub(tiny(tmp_path, f"tracking.push_to_hub={name}"))


def test_without_a_token_nothing_is_begun(server, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_token", lambda: None)
    with pytest.raises(HubError, match="needs a token that may write there. Run hf auth login, or set HF_TOKEN"):
        run(tiny(tmp_path, NAME))
    assert not (tmp_path / "tiny").exists()
