"""Runs from a GGUF file that is written here, and what cannot be read of one."""

import importlib.util

import pytest
import torch
from runs import tiny
from tiny_gguf import TEMPLATE, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from neuralese.data.errors import UserError
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.model.gguf import check_gguf, convert_gguf
from neuralese.pipeline.run.train import run

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def test_a_file_becomes_the_model_that_it_was_made_from(tmp_path):
    model = write_gguf(tmp_path / "tiny.gguf")
    convert_gguf(str(tmp_path), "tiny.gguf", tmp_path / "folder")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "folder").eval()
    assert torch.equal(found(IDS).logits, model(IDS).logits)
    assert "quantization_config" not in found.config.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    assert tokenizer.chat_template == TEMPLATE and tokenizer.decode(tokenizer("17 + 5 * 3").input_ids) == "17 + 5 * 3"


@pytest.mark.parametrize("lora", ["null", "{r: 4, target_modules: [q_proj, up_proj]}"])
def test_a_run_from_a_file(tmp_path, lora):
    write_gguf(tmp_path / "tiny.gguf")
    of = tiny(
        tmp_path, "model.config=null", f"model.name_or_path={tmp_path}", "model.gguf_file=tiny.gguf",
        f"model.lora={lora}", "tracking.wandb=false", "rl.trainer.max_completion_length=8",
        "evaluate.max_new_tokens=32",
    )  # fmt: skip
    run(of)
    for stage in ("sft", "curriculum", "rl"):
        config = load_reasoner(of.folder / stage / "final").model.config.to_dict()
        assert "quantization_config" not in config and config["model_type"] == "llama", stage


def test_what_cannot_be_read(tmp_path, monkeypatch):
    write_gguf(tmp_path / "tiny.gguf", "rwkv6")
    with pytest.raises(UserError, match="architecture 'rwkv6'.*It can read .*llama"):
        check_gguf(str(tmp_path), "tiny.gguf")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"neuralese\[gguf\]"):
        check_gguf(str(tmp_path), "tiny.gguf")


def test_rl_alone_has_a_reference_model(tmp_path):
    write_gguf(tmp_path / "tiny.gguf")
    of = tiny(
        tmp_path, "model.config=null", f"model.name_or_path={tmp_path}", "model.gguf_file=tiny.gguf", "sft=null",
        "curriculum=null", "tracking.wandb=false", "rl.noise=null", "rl.trainer.beta=0.1",
        "rl.trainer.max_completion_length=8", "evaluate.max_new_tokens=32",
    )  # fmt: skip
    run(of)
    assert (of.folder / "rl" / "final").is_dir()
