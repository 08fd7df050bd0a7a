"""Model folders that cannot be trained or sampled, and what makes them usable."""

import json

import torch
from safetensors.torch import load_file
from text_tokenizers import gpt2_like
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from neuralese.pipeline.scoring.latent_reward import LatentRewardConfig, LatentRewardModel

from .day import TINY, BadDay

MODEL = ["model.config=null", "model.name_or_path={folder}/model", "curriculum.supervision=none"]
CHECK = ["check", TINY, *MODEL]
JUDGED = ["evaluate.selectors=[latent_weighted]"]
SHORT = [
    "model.config=null", "rl=null", "curriculum=null", "tracking.wandb=false", "evaluate.problems=2",
    "sft.trainer.max_steps=2",
]  # fmt: skip
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


def _sharded(folder):
    weights = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = [f"model-0000{1 + (i > 2)}-of-00002.safetensors" for i in range(len(weights))]
    index = {"metadata": {}, "weight_map": dict(zip(weights, names, strict=True))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


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


def _cut_judge(scene):
    LatentRewardModel(LatentRewardConfig(state_size=16, num_latents=2)).save_pretrained(scene.folder / "judge")
    _truncated(scene.folder / "judge")


def _no_eos_but_set(scene):
    _no_eos(scene)
    file = scene.folder / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"eos_token": "<|endoftext|>"}))


def _untied(scene):
    """Embeddings of their own at either end, no pad token, and a path with spaces and accents."""
    tokenizer = gpt2_like()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=False, eos_token_id=0, **sizes)
    folder = _saved(scene, LlamaForCausalLM(config), tokenizer)
    folder.rename(scene.folder / "ein Modell é")


def _stays_untied(scene):
    final = scene.folder / "meine Läufe" / "tiny" / "sft" / "final"
    model = AutoModelForCausalLM.from_pretrained(final)
    assert not torch.equal(model.lm_head.weight, model.get_input_embeddings().weight)
    weights, before = load_file(final / "model.safetensors"), load_file(scene.folder / "ein Modell é/model.safetensors")
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= weights.keys()
    for name in ("lm_head.weight", "model.embed_tokens.weight"):  # trained, and still the model that it was
        changed = (weights[name][: len(before[name])] - before[name]).abs().max()
        assert 0 < changed < 0.01


REFUSED = [
    *(
        BadDay(
            f"a folder quantized by {method}",
            CHECK,
            f"The weights of '{{folder}}/model' are quantized ({method}), which training cannot change",
            before=_but(_quantized(method)),
        )
        for method in ("gptq", "awq", "bitsandbytes", "compressed-tensors")
    ),
    BadDay(
        "a folder with nothing but a GGUF file",
        CHECK,
        "{folder}/model has no config.json. To take its GGUF weights, name their file in the recipe: "
        "model.gguf_file: model.Q4_1.gguf.",
        before=_but(_gguf),
    ),
    BadDay(
        "a GGUF file beside a config",
        CHECK,
        "{folder}/model has no weights but GGUF. To take its GGUF weights, name their file in the recipe: "
        "model.gguf_file: model.gguf.",
        before=_but(lambda folder: (folder / "model.safetensors").rename(folder / "model.gguf")),
    ),
    BadDay(
        "a folder with an adapter and no model",
        CHECK,
        "{folder}/model holds an adapter (adapter_config.json), not a model. Merge it into its base model",
        before=_but(_adapter),
    ),
    BadDay(
        "a folder without weights",
        CHECK,
        "{folder}/model has no weights: there is no model.safetensors",
        before=_but(_without("model.safetensors")),
    ),
    BadDay(
        "weights of which a part is missing",
        CHECK,
        "{folder}/model lacks model-00002-of-00002.safetensors, which its model.safetensors.index.json names",
        before=_but(_sharded),
    ),
    BadDay(
        "weights that are pickles",
        CHECK,
        "The weights in {folder}/model are pickles, which may run code when they are read",
        before=_but(_pickled),
    ),
    BadDay(
        "weights that were cut short",
        CHECK,
        "{folder}/model/model.safetensors is cut short or damaged",
        before=_but(_truncated),
    ),
    BadDay(
        "a config.json that is no JSON",
        CHECK,
        "{folder}/model/config.json is not JSON: Expecting property name",
        before=_but(_text("config.json", '{"model_type": "gpt2",')),
    ),
    BadDay(
        "a model type that Transformers does not know",
        CHECK,
        "The model in {folder}/model cannot be loaded: ValueError: The checkpoint you are trying to load has",
        before=_but(_text("config.json", '{"model_type": "gpt99"}')),
    ),
    BadDay(
        "an encoder",
        CHECK,
        "'{folder}/model' is a 'bert' model, an encoder, whose attention looks ahead",
        before=_bert,
    ),
    BadDay(
        "an encoder with a decoder",
        CHECK,
        "'{folder}/model' is a 't5' model, which has no causal language model in Transformers",
        before=_t5,
    ),
    BadDay(
        "a tokenizer.json without its parts",
        CHECK,
        "The model in {folder}/model cannot be loaded: KeyError: 'added_tokens'. Check the files in the folder.",
        before=_but(_text("tokenizer.json", "{}")),
    ),
    BadDay(
        "a model without a tokenizer",
        CHECK,
        "'{folder}/model' has no tokenizer: neither tokenizer.json nor another vocabulary is there",
        before=_but(_without("tokenizer.json", "tokenizer_config.json")),
    ),
    BadDay(
        "a tokenizer without an end token",
        CHECK,
        """has no eos_token, so an answer could never end. Set "eos_token" in its tokenizer_config.json""",
        before=_no_eos,
    ),
    BadDay(
        "a folder without config.json",
        CHECK,
        "{folder}/model has no config.json. Name a folder",
        before=_but(_without("config.json")),
    ),
    BadDay(
        "a run folder in place of a checkpoint",
        ["sample", "{finished}", "1 + 2 * 3 ="],
        "{finished} has no config.json. It is a run folder. Name one of its checkpoints: {finished}/base/final",
    ),
    BadDay("a model folder that is not there", CHECK, "There is no folder {folder}/model. Check the path"),
    BadDay(
        "a file in place of a model folder",
        CHECK,
        "{folder}/model is a file. Name the folder",
        before=lambda scene: (scene.folder / "model").write_text("x"),
    ),
    BadDay(
        "a model id that does not exist, offline",
        ["sample", "no-org/no-model", "1 + 2 * 3 ="],
        "There is no model 'no-org/no-model': no folder here has that name, and HF_HUB_OFFLINE is set while its cache",
    ),
    BadDay(
        "a latent reward model that was cut short",
        ["check", TINY, *JUDGED, "evaluate.latent_reward={folder}/judge"],
        "{folder}/judge/model.safetensors is cut short or damaged",
        before=_cut_judge,
    ),
    BadDay(
        "a language model in place of a latent reward model",
        ["check", TINY, *JUDGED, "evaluate.latent_reward={folder}/model"],
        "There is no latent reward model in {folder}/model",
        before=_saved,
    ),
]
WELL = [
    BadDay(
        "the same id, in a recipe that is checked",
        ["check", TINY, "model.config=null", "model.name_or_path=no-org/no-model"],
        "No examples are shown. There is no model 'no-org/no-model': no folder here has that name",
        code=0,
    ),
    BadDay(
        'an end token that is set by "eos_token" in tokenizer_config.json',
        CHECK,
        "[<|endoftext|>] level 1",
        "it is used",
        0,
        _no_eos_but_set,
    ),
    BadDay(
        "embeddings that are not tied, no pad token, spaces and accents in paths",
        ["train", TINY, *SHORT, "model.name_or_path={folder}/ein Modell é", "output_dir={folder}/meine Läufe"],
        "Checkpoint {folder}/meine Läufe/tiny/sft/final",
        "the model stays as it is",
        0,
        _untied,
        _stays_untied,
    ),
]
DAYS = [*REFUSED, *WELL]
