"""Model folders that cannot be trained or sampled, and what makes them usable."""

import json

import torch
from safetensors.torch import load_file
from text_tokenizers import gpt2_like
from transformers import BertConfig, BertLMHeadModel, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from .day import TINY, BadDay

MODEL = ["model.config=null", "model.name_or_path={folder}/model", "curriculum.supervision=none"]
CHECK = ["check", TINY, *MODEL]
SIZES = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 128}


def _saved(scene, model=None, tokenizer=None):
    """A whole folder: a tiny GPT-2 unless another model is given, and its tokenizer."""
    folder = scene.folder / "model"
    tokenizer = tokenizer or gpt2_like()
    model = model or GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), eos_token_id=0, **SIZES))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _but(change):
    """A whole folder, changed."""

    def write(scene):
        change(_saved(scene))

    return write


def _quantized(method):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 128, "load_in_4bit": True}
        (folder / "config.json").write_text(json.dumps(config))

    return change


def _adapter(folder):
    (folder / "config.json").unlink()
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "gpt2"}))


def _gguf(folder):
    for file in folder.iterdir():
        file.unlink()
    (folder / "model.Q4_1.gguf").write_bytes(b"GGUF")


def _pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _truncated(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _without(*names):
    def change(folder):
        for name in names:
            (folder / name).unlink()

    return change


def _bert(scene):
    tokenizer = gpt2_like()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    _saved(scene, BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), **sizes)), tokenizer)


def _t5(scene):
    tokenizer = gpt2_like()
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    _saved(scene, T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes)), tokenizer)


def _no_eos(scene):
    tokenizer = gpt2_like()
    tokenizer.eos_token = None
    _saved(scene, tokenizer=tokenizer)


def _text(name, text):
    return lambda folder: (folder / name).write_text(text)


DAYS = [
    *(
        BadDay(f"a folder quantized by {method}", CHECK, "XX", before=_but(_quantized(method)))
        for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors", "made-up")
    ),
    BadDay("only a GGUF file", CHECK, "XX", before=_but(_gguf)),
    BadDay("only an adapter", CHECK, "XX", before=_but(_adapter)),
    BadDay("no weights", CHECK, "XX", before=_but(_without("model.safetensors"))),
    BadDay("pickled weights", CHECK, "XX", before=_but(_pickled)),
    BadDay("truncated weights", CHECK, "XX", before=_but(_truncated)),
    BadDay("config.json no JSON", CHECK, "XX", before=_but(_text("config.json", '{"model_type": "gpt2",'))),
    BadDay("config.json a list", CHECK, "XX", before=_but(_text("config.json", "[]"))),
    BadDay("config.json binary", CHECK, "XX", before=_but(lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"))),
    BadDay("tokenizer.json no JSON", CHECK, "XX", before=_but(_text("tokenizer.json", "{"))),
    BadDay("tokenizer.json other JSON", CHECK, "XX", before=_but(_text("tokenizer.json", "{}"))),
    BadDay("no tokenizer", CHECK, "XX", before=_but(_without("tokenizer.json", "tokenizer_config.json"))),
    BadDay("an encoder", CHECK, "XX", before=_bert),
    BadDay("an encoder-decoder", CHECK, "XX", before=_t5),
    BadDay("no eos", CHECK, "XX", before=_no_eos),
    BadDay("no such folder", CHECK, "XX"),
    BadDay("no config.json", CHECK, "XX", before=_but(_without("config.json"))),
    BadDay("empty folder", CHECK, "XX", before=lambda scene: (scene.folder / "model").mkdir()),
    BadDay("unknown model type", CHECK, "XX", before=_but(_text("config.json", '{"model_type": "gpt99"}'))),
    BadDay("a file", CHECK, "XX", before=lambda scene: (scene.folder / "model").write_text("x")),
    BadDay("no such hub id", ["check", TINY, "model.config=null", "model.name_or_path=no-org/no-model"], "XX"),
]
