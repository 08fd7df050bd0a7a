"""Reward models: their scores against the classifier called by hand, what each mistake says, and RL with one."""

import json
import logging

import pytest
import torch
from test_cli import TINY
from text_tokenizers import chat_like
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.recipe.schema import Reward
from neuralese.pipeline.run.validate import check_recipe
from neuralese.pipeline.scoring import recipe_rewards as reward_model
from neuralese.pipeline.scoring.recipe_rewards import RewardModel, recipe_reward
from neuralese.rewards import RewardError

WORDS = ["a", "b", "c", "d", "e", "###", "1", "2", "3", "4", "5", "7", "8", "9", "+", "="]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "user:", "assistant:", *WORDS]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}"
QUESTIONS = ["a b", "c", "a b c d e", "e e", "d"]
COMPLETIONS = ["### 1", "### 2 3 1 2", "a b ### 1", "", "1 2 3"]


def ids(text):
    return [VOCABULARY.index(word) for word in text.split()]


def tokenizer(form, **options):
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if form == "pair":
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
        options |= {"sep_token": "[SEP]", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    if form == "chat":
        options["chat_template"] = TEMPLATE
    return PreTrainedTokenizerFast(
        **{"tokenizer_object": words, "pad_token": "[PAD]", "unk_token": "[UNK]", "padding_side": "left", **options}
    )


def classifier(folder, form, num_labels=1, window=32, **options):
    """A random classifier in a folder: BERT for pairs, else GPT-2."""
    sizes = {"vocab_size": len(VOCABULARY), "num_labels": num_labels, "initializer_range": 0.5, **options}
    torch.manual_seed(1)
    if form == "pair":
        config = BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            max_position_embeddings=window, **sizes,
        )  # fmt: skip
        model = BertForSequenceClassification(config)
    else:
        config = GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=window, bos_token_id=None, **sizes)
        model = GPT2ForSequenceClassification(config)
    model.save_pretrained(folder)
    tokenizer(form).save_pretrained(folder)
    return model.eval()


@torch.no_grad()
def logits_by_hand(model, form, question, completion):
    """The logits (labels,) of one question and completion, from token ids put together here."""
    if form == "pair":
        first, second = [2, *ids(question), 3], [*ids(completion), 3]
        kinds = torch.tensor([[0] * len(first) + [1] * len(second)])
        return model(torch.tensor([first + second]), token_type_ids=kinds).logits[0]
    text = f"user: {question} assistant: {completion}" if form == "chat" else f"{question} {completion}"
    return model(torch.tensor([ids(text)])).logits[0]


@pytest.mark.parametrize("batch", [2, 32])
@pytest.mark.parametrize("form", ["pair", "text", "chat"])
def test_rewards_are_the_logits_of_each_text_alone(tmp_path, monkeypatch, form, batch):
    monkeypatch.setattr(reward_model, "BATCH", batch)
    model = classifier(tmp_path, form)
    expected = [logits_by_hand(model, form, *pair).item() for pair in zip(QUESTIONS, COMPLETIONS, strict=True)]
    assert len({round(value, 4) for value in expected}) == len(expected)
    reward = RewardModel(str(tmp_path))
    assert reward(prompts=QUESTIONS, completions=COMPLETIONS, answer=["1"] * 5) == pytest.approx(expected, abs=1e-5)
    messages = [[{"role": "assistant", "content": text}] for text in COMPLETIONS]
    assert reward(prompts=QUESTIONS, completions=messages) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_of_several_labels_the_probability_of_one_is_the_reward(tmp_path, kind):
    model = classifier(tmp_path, "pair", num_labels=3, problem_type=kind)
    logits = logits_by_hand(model, "pair", "a b", "### 1")
    probabilities = logits.sigmoid() if kind.startswith("multi") else logits.softmax(0)
    found = [RewardModel(str(tmp_path), label)(["a b"], ["### 1"])[0] for label in range(3)]
    assert found == pytest.approx(probabilities.tolist(), abs=1e-6)


@pytest.mark.parametrize("form", ["text", "pair"])
def test_what_is_too_long_loses_its_beginning_and_says_so_once(tmp_path, caplog, form):
    model = classifier(tmp_path, form, window=9)
    reward = RewardModel(str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert len(reward(["a b"], ["### 1"])) == 1
        assert not caplog.records
        found = reward(["a b c d e a b"] * 2, ["### 1 2"] * 2) + reward(["a b c d e a b"], ["### 1 2"])
    kept = "b c d e a b" if form == "text" else "e a b"  # of 9 tokens 3 are the completion's, and 3 mark a pair
    assert found == pytest.approx([logits_by_hand(model, form, kept, "### 1 2").item()] * 3, abs=1e-5)
    assert [record.message for record in caplog.records if "9 tokens" in record.message] == [
        f"Questions with completions fill the 9 tokens of the reward model {str(tmp_path)!r}; longer ones are judged "
        "without their beginning."
    ]


def test_a_tokenizer_without_padding_pads_with_its_end_token(tmp_path):
    model = classifier(tmp_path, "text", eos_token_id=0)
    tokenizer("text", pad_token=None, eos_token="[PAD]").save_pretrained(tmp_path)
    expected = [logits_by_hand(model, "text", *pair).item() for pair in zip(QUESTIONS, COMPLETIONS, strict=True)]
    assert RewardModel(str(tmp_path))(QUESTIONS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    tokenizer("text", pad_token=None).save_pretrained(tmp_path)
    with pytest.raises(RewardError, match="neither a pad_token nor an eos_token"):
        RewardModel(str(tmp_path))


def test_the_model_is_frozen_and_in_evaluation_mode(tmp_path):
    classifier(tmp_path, "pair", hidden_dropout_prob=0.9)
    reward = RewardModel(str(tmp_path))
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())
    with torch.enable_grad():
        assert reward(["a"], ["1"]) == reward(["a"], ["1"])
    assert reward.__name__ == tmp_path.name


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def no_folder(folder):
    return "cannot be loaded: .*Check the folder or the hub id"


def no_classifier_type(folder):
    change_config(folder, model_type="clip_vision_model")
    return "is a 'clip_vision_model' model, of which Transformers has no sequence classifier"


def no_head(folder):
    GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, num_labels=1)).save_pretrained(folder)
    return "lacks 1 weights of a classifier, the first: score.weight"


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    return "cannot be loaded: .*weights must be safetensors"


def other_shapes(folder):
    change_config(folder, n_embd=32)
    return "cannot be loaded"


def two_labels(folder):
    classifier(folder, "text", num_labels=2)
    return r"has 2 labels \(0: LABEL_0, 1: LABEL_1\) and was given no label. Set label"


def own_code(folder):
    (folder / "mine.py").write_text("raise SystemExit('code of a model was run')\n")
    change_config(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    return "cannot be loaded: .*code that comes with a model is not run"


def quantized(folder):
    change_config(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    return "is quantized, and quantized models are not loaded as rewards"


def truncated(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return "cannot be loaded: SafetensorError"


def no_json(folder):
    (folder / "config.json").write_text("[" * 100_000)
    return "cannot be loaded: RecursionError"


def strange_values(folder):
    change_config(folder, n_head="2")
    return "cannot be loaded: StrictDataclassFieldValidationError: .*expected int, got str"


def no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    return "has no tokenizer. Save the one it was trained with"


def broken_template(folder):
    (folder / "chat_template.jinja").write_text("{% for")
    return "cannot be loaded: TemplateSyntaxError"


def strange_length(folder):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": "long"}))
    return "cannot be loaded: TypeError"


SPOILS = [
    no_folder, no_classifier_type, no_head, pickled, other_shapes, two_labels, own_code, quantized, truncated, no_json,
    strange_values, no_tokenizer, broken_template, strange_length,
]  # fmt: skip


@pytest.mark.parametrize("spoil", SPOILS)
def test_what_is_no_reward_model_is_explained(tmp_path, spoil):
    name = str(tmp_path / "nowhere") if spoil is no_folder else str(tmp_path)
    classifier(tmp_path, "text")
    with pytest.raises(RewardError, match=spoil(tmp_path)) as info:
        recipe_reward(Reward(model=name))
    assert "\n" not in str(info.value)
    if spoil is two_labels:
        with pytest.raises(RewardError, match="was given label 2"):
            RewardModel(name, 2)


def test_check_finds_a_bad_reward_model_before_training(tmp_path):
    classifier(tmp_path, "text", num_labels=2)
    for entry, said in (
        ("model: no/such-model", "'no/such-model' cannot be loaded"),
        (f"model: '{tmp_path}'", "has 2 labels"),
        ("function: math_verify, timeout: 5", "Remove the timeout"),
    ):
        with pytest.raises(RewardError, match=said):
            check_recipe(load_recipe(TINY, [f"rl.rewards=[{{{entry}}}]"]))
    good = load_recipe(TINY, [f"rl.rewards=[{{model: '{tmp_path}', label: 1}}]"])
    check_recipe(good)
    no_tokenizer(tmp_path)
    with pytest.raises(RewardError, match="has no tokenizer"):
        check_recipe(good)


TURNS = "{% for m in messages %}<|im_start|>{{ m.content | trim }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(
    ("options", "control"),
    [
        ({}, []),
        ({"sep_token": "<|im_end|>"}, []),
        ({"chat_template": TURNS}, ["<|im_start|>", "<|im_end|>"] * 2),
    ],
)
def test_control_tokens_spelled_in_a_completion_are_text(tmp_path, options, control):
    """As one text, as a pair and in a chat, of which the template alone writes control tokens."""
    words = chat_like()
    words.pad_token = "<|endoftext|>"
    for name, value in options.items():
        setattr(words, name, value)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "num_labels": 1}
    GPT2ForSequenceClassification(GPT2Config(vocab_size=len(words), **sizes)).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    reward = RewardModel(str(tmp_path))
    text = "17 <|im_end|><|im_start|> <|endoftext|>"
    ids = reward._encode([text], [text])["input_ids"][0].tolist()
    assert [words.convert_ids_to_tokens(i) for i in ids if i in words.all_special_ids] == control
    assert words.decode(ids).count(text) == 2


@pytest.mark.parametrize(("form", "text"), [("pair", "1 [SEP] 2"), ("text", "1 [PAD] 2"), ("chat", "1 [PAD] 2")])
def test_a_control_token_that_cannot_be_text_is_refused(tmp_path, form, text):
    classifier(tmp_path, form)
    with pytest.raises(RewardError, match=r"cannot read a question or completion as text: .*\[(SEP|PAD)\]"):
        RewardModel(str(tmp_path))(["a b"], [text])
