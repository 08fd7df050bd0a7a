"""The recipes for real models, a few steps on random models of the same architectures (reduced size), with tokenizers
of the same classes and the readers of the real data. They show that the recipes run, not what they reach."""

import json

import pytest
from chat_tokenizers import KINDS
from conftest import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from neuralese.pipeline import load_reasoner
from neuralese.pipeline.cli.app import main
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run

DATA = ROOT.parent / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real evaluation files are not here")
SMALL = [
    "tracking.wandb=false", "evaluate.problems=4", "evaluate.num_samples=2", "evaluate.k=[1, 2]",
    "evaluate.max_new_tokens=24", "evaluate.bootstrap=20", "data.train.limit=40", "curriculum.eval_problems=4",
    "sft.trainer.max_steps=2", "sft.trainer.per_device_train_batch_size=2", "sft.trainer.gradient_accumulation_steps=2",
    "curriculum.trainer.max_steps=2", "curriculum.trainer.per_device_train_batch_size=2",
    "curriculum.trainer.gradient_accumulation_steps=2", "rl.trainer.max_steps=2",
    "rl.trainer.per_device_train_batch_size=4", "rl.trainer.num_generations=2",
    "rl.trainer.gradient_accumulation_steps=2", "rl.trainer.max_completion_length=24",
]  # fmt: skip
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "tie_word_embeddings": True}  # fmt: skip


def byte_level_bpe(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>"]
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=special)
    )
    return tokenizer


def save_gpt2(folder, texts):
    tokenizer = GPT2TokenizerFast(tokenizer_object=byte_level_bpe(texts))  # no padding token, as GPT-2's
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def save_llama(folder, texts):
    inner = byte_level_bpe(texts)
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>"
    )  # Llama 3 has no padding token and puts its beginning token before every text
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=1, eos_token_id=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_small(name, save, tmp_path, train, evaluation, *extra):
    texts = [line for path in (train, evaluation) for line in path.read_text().splitlines()[:200]]
    save(tmp_path / "model", texts)
    hub = ["data.train.dataset=null", "data.eval.dataset=null", "data.eval.name=null", "data.keep_overlap=true"]
    where = [f"data.train.path={train}", f"data.eval.path={evaluation}", f"model.name_or_path={tmp_path / 'model'}"]
    recipe = load_recipe(ROOT / "recipes" / f"{name}.yaml", [*SMALL, *hub, *where, *extra, f"output_dir={tmp_path}"])
    rows = run(recipe)
    assert {row.stage for row in rows} == {"sft", "curriculum", "rl"}
    losses = [
        json.loads(line)["loss"]
        for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert losses and all(loss is not None for loss in losses)
    return load_reasoner(tmp_path / name / "rl" / "final")


@needs_data
def test_gsm8k_gpt2(tmp_path):
    train, evaluation = DATA / "gsm8k_aug_valid.json", DATA / "gsm8k_test.jsonl"
    reasoner = run_small("gsm8k_gpt2", save_gpt2, tmp_path, train, evaluation)
    assert (reasoner.config.num_latents, reasoner.config.latents_per_step) == (6, 2)
    assert reasoner.config.thought_source == "raw" and reasoner.config.level == 4


@needs_data
@pytest.mark.parametrize(("name", "save", "c"), [("gpt2", save_gpt2, 13), ("llama1b", save_llama, 25)])
def test_gsm8k_lotus(tmp_path, caplog, name, save, c):
    few = "curriculum.last_level_trainer.max_steps=2"  # the preset has tens of epochs there
    train, evaluation = DATA / "gsm8k_aug_valid.json", DATA / "gsm8k_test.jsonl"
    reasoner = run_small(f"gsm8k_{name}_lotus", save, tmp_path, train, evaluation, "model.dtype=float32", few)
    section = reasoner.config
    assert (section.num_latents, section.latents_per_step, section.level) == (6 * c, c, 6)
    assert (section.mode, section.loops, section.injection, section.thought_source) == ("looped", 6, "add", "raw")
    cut = [record.getMessage() for record in caplog.records if "have more tokens than" in record.getMessage()]
    assert len(cut) == 1 and f"than their {c} latents" in cut[0]  # the small vocabulary makes long steps


@needs_data
def test_gsm8k_llama1b_lora(tmp_path):
    train, evaluation = DATA / "gsm8k_aug_valid.json", DATA / "gsm8k_test.jsonl"
    reasoner = run_small(
        "gsm8k_llama1b_lora", save_llama, tmp_path, train, evaluation, "model.lora.r=4", "model.dtype=float32"
    )
    assert reasoner.config.num_latents == 6
    # One beginning token, at the front, although the parts of a problem are tokenized one by one.
    ids = reasoner.prompt_ids("How many?")
    assert ids[0] == 1 and ids.count(1) == 1


def chat_model(kind):
    """Saves a small chat model whose tokenizer has the structure of one of the known kinds."""

    def save(folder, texts):
        tokenizer, config = KINDS[kind](), Qwen2Config if kind == "qwen2" else LlamaConfig
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        model = AutoModelForCausalLM.from_config(config(vocab_size=len(tokenizer), **SHAPE, **ids))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return save


@needs_data
@pytest.mark.parametrize(
    ("name", "kind", "lora"),
    [
        ("smollm2_gsm8k", "smollm2", []),
        ("gsm8k_qwen0.5b_lora", "qwen2", ["model.lora.r=4"]),
        ("gsm8k_llama1b_lora_24gb", "llama3", ["model.lora.r=4"]),
    ],
)
def test_gsm8k_on_one_24_gb_gpu(tmp_path, name, kind, lora):
    train, evaluation = DATA / "gsm8k_aug_valid.json", DATA / "gsm8k_test.jsonl"
    last = "curriculum.last_level_trainer.max_steps=2"
    reasoner = run_small(name, chat_model(kind), tmp_path, train, evaluation, "model.dtype=float32", last, *lora)
    assert (reasoner.config.num_latents, reasoner.config.latents_per_step) == (6, 2)
    assert reasoner.config.format == ("chat" if lora else "plain")


def test_smollm2_gsm_symbolic(tmp_path):
    pytest.importorskip("reasoning_gym")
    chat_model("smollm2")(tmp_path / "model", [])
    data = ["data.train.size=60", "data.eval.size=8", "curriculum.last_level_trainer.max_steps=2"]
    small = [key for key in SMALL if not key.startswith("data.")]
    where = [f"model.name_or_path={tmp_path / 'model'}", "model.dtype=float32", f"output_dir={tmp_path}"]
    recipe = load_recipe(ROOT / "recipes" / "smollm2_gsm_symbolic.yaml", [*small, *data, *where])
    assert {row.stage for row in run(recipe)} == {"sft", "curriculum", "rl"}
    section = load_reasoner(tmp_path / "smollm2_gsm_symbolic" / "rl" / "final").config
    assert (section.num_latents, section.latents_per_step, section.level) == (8, 2, 4)


@needs_data
def test_prosqa_gpt2(tmp_path):
    reasoner = run_small("prosqa_gpt2", save_gpt2, tmp_path, DATA / "prosqa_valid.json", DATA / "prosqa_valid.json")
    assert reasoner.config.num_latents >= 5 and reasoner.config.latents_per_step == 1


def test_prosqa_superposition(tmp_path):
    """On generated problems; then measured on the published ones in the same symbols, where they are at hand."""
    options = [
        f"output_dir={tmp_path}", "tracking.wandb=false", "model.config.n_embd=16", "model.config.n_head=2",
        "data.train.size=1000", "data.eval.size=8", "curriculum.eval_problems=8", "evaluate.num_samples=2",
        "evaluate.k=[1, 2]", "evaluate.bootstrap=20", "sft.trainer.max_steps=1", "curriculum.trainer.max_steps=1",
        "sft.trainer.per_device_train_batch_size=4", "curriculum.trainer.per_device_train_batch_size=4",
    ]  # fmt: skip
    rows = run(load_recipe(ROOT / "recipes" / "prosqa_superposition.yaml", options))
    assert {row.stage for row in rows} == {"sft", "curriculum"}
    if DATA.is_dir():
        published = f"data.eval={{path: '{DATA / 'prosqa_valid.json'}', step_splitter: prosqa_symbolic, limit: 20}}"
        command = [
            "eval",
            str(tmp_path / "prosqa_superposition"),
            published,
            "--output",
            str(tmp_path / "published.json"),
        ]
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert stop.value.code == 0
        assert {row["n"] for row in json.loads((tmp_path / "published.json").read_text())} == {20}
