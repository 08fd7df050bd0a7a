"""Models that are GGUF files. SMOLLM2_GGUF=<folder with SmolLM2-135M-Instruct.Q4_1.gguf> also tests a real one."""

import os
from pathlib import Path

import pytest
from conftest import ROOT

from neuralese.data.errors import UserError
from neuralese.pipeline.model.gguf import check_gguf, convert_gguf
from neuralese.pipeline.model.load import load_reasoner, load_tokenizer
from neuralese.pipeline.recipe.load import load_recipe

REAL = "SmolLM2-135M-Instruct.Q4_1.gguf"


def test_what_is_no_gguf_model_is_said(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGML and more")
    with pytest.raises(UserError, match=r"no file modle.gguf .*There are model.gguf, did you mean 'model.gguf'"):
        check_gguf(str(tmp_path), "modle.gguf")
    with pytest.raises(UserError, match="is not a GGUF file: it begins with b'GGML'"):
        check_gguf(str(tmp_path), "model.gguf")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match="model.gguf of .* is cut short or damaged"):
        check_gguf(str(tmp_path), "model.gguf")
    with pytest.raises(UserError, match="There is no folder"):
        check_gguf(str(tmp_path / "none"), "model.gguf")


def test_a_gguf_file_needs_the_folder_that_it_lies_in():
    with pytest.raises(UserError, match="gguf_file=model.gguf is a file in name_or_path, which is missing"):
        load_recipe(ROOT / "tests" / "tiny.yaml", ["model.gguf_file=model.gguf"])


@pytest.mark.skipif("SMOLLM2_GGUF" not in os.environ, reason="needs SMOLLM2_GGUF, a folder with the file")
def test_a_real_file_becomes_an_ordinary_folder(tmp_path):
    folder = Path(os.environ["SMOLLM2_GGUF"])
    convert_gguf(str(folder), REAL, tmp_path)
    reasoner = load_reasoner(tmp_path)
    assert "quantization_config" not in reasoner.model.config.to_dict()
    _, tokenizer = load_tokenizer(folder, gguf_file=REAL)
    assert reasoner.tokenizer.get_vocab() == tokenizer.get_vocab() and tokenizer.chat_template
