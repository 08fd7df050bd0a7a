"""Text of users is text: whatever control token it spells, in a question, a step or an answer, on every path."""

import json

import pytest
import text_tokenizers
from runs import TINY
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from neuralese.data import DataError, Problem
from neuralese.pipeline import load_reasoner
from neuralese.pipeline.latent.config import LatentConfig
from neuralese.pipeline.latent.tokens import prepare_tokenizer, special_token_ids
from neuralese.pipeline.model.build import CONTROL, build_tokenizer
from neuralese.pipeline.problems.checks import check_answers
from neuralese.pipeline.problems.encode import encode, encode_prompts
from neuralese.pipeline.problems.format import Format
from neuralese.pipeline.problems.schedule import TEXT, Level
from neuralese.pipeline.problems.text import control_ids, text_ids
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.train import run

SPLITS = ["gpt2_like", "chat_like", "llama_like", "slow"]


def made(kind):
    tokenizer = getattr(text_tokenizers, kind)()
    prepare_tokenizer(tokenizer)
    return tokenizer


def specials(tokenizer):
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def spelled(text):
    return Problem(f"17 + {text} 5 =", (f"17 {text}", f"{text}{text} = 22"), f"22 {text}")


@pytest.mark.parametrize("kind", SPLITS)
def test_examples_have_the_control_tokens_that_the_pipeline_put_and_no_others(kind):
    tokenizer = made(kind)
    config = LatentConfig(token_ids=special_token_ids(tokenizer), delimiters=True)
    start, latent, end = config.token_ids
    first = [tokenizer.bos_token_id] if kind == "llama_like" else []
    control, stages = control_ids(tokenizer), [TEXT, Level(1, 1, 1), Level(2, None, 2)]
    for text in specials(tokenizer):
        (encoded,) = encode([spelled(text)], tokenizer)
        for stage in stages:
            block = [start, *[latent] * stage.num_latents, end] if stage.num_latents else []
            ids, _ = Format(config).render(encoded, stage)
            assert [i for i in ids if i in control] == [*first, *block, tokenizer.eos_token_id], (text, stage)
        (prompt,) = encode_prompts([spelled(text).question], 2, tokenizer, config)
        assert [i for i in prompt if i in control] == [*first, start, latent, latent, end], text


@pytest.mark.parametrize("kind", SPLITS)
def test_what_was_spelled_can_be_read_again(kind):
    tokenizer = made(kind)
    texts = [f"17 {text} 5" for text in specials(tokenizer)]
    rows = text_ids(texts, tokenizer, str)
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == texts


@pytest.mark.parametrize("kind", [*SPLITS, "word_level", "unigram"])
def test_other_text_has_the_tokens_it_always_had(kind):
    tokenizer, texts = made(kind), ["17 + 5 * 3 = 22\n", " 22  *3", "### 4", "é"]
    assert text_ids(texts, tokenizer, str) == tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert text_ids([], tokenizer, str) == []


@pytest.mark.parametrize(("kind", "text"), [("word_level", "<|end|>"), ("word_level", "<|pad|>"), ("unigram", "</s>")])
def test_a_token_that_cannot_be_split_is_refused_with_its_row(kind, text):
    tokenizer, fine = made(kind), spelled("3")
    with pytest.raises(
        DataError, match=r"^The problem '17 .*' spells '.*as a control token only, not as text: '17 \+ "
    ):
        encode([fine, spelled(text)], tokenizer)
    config = LatentConfig(token_ids=special_token_ids(tokenizer))
    with pytest.raises(DataError, match="^Question 1 spells"):
        encode_prompts([fine.question, spelled(text).question], 2, tokenizer, config)
    with pytest.raises(DataError, match="^The answer of the problem .* spells"):
        check_answers([spelled(text)], tokenizer)


def test_where_words_are_tokens_a_latent_that_is_spelled_is_an_unknown_word():
    tokenizer = made("word_level")
    assert text_ids(["17 <|latent|> 5"], tokenizer, str) == text_ids(["17 whatever 5"], tokenizer, str)
    with pytest.raises(DataError, match="has words that the tokenizer does not know"):
        check_answers([Problem("17 =", (), "<|latent|>")], tokenizer)


@pytest.mark.parametrize("word", sorted(CONTROL))
@pytest.mark.parametrize("field", ["question", "steps", "answer"])
def test_no_vocabulary_is_built_with_the_name_of_a_control_token(word, field):
    parts = {"question": "17 =", "steps": ("17",), "answer": "17"}
    parts[field] = (f"17 {word}",) if field == "steps" else f"17 {word}"
    with pytest.raises(DataError, match=r"^The word '<\|.*\|>' of the problem '.* is the name of a control token"):
        build_tokenizer([spelled("3"), Problem(**parts)])
    build_tokenizer([Problem(f"17{word}", (), "17")])  # a word that holds one is another word


@pytest.fixture
def folder(tmp_path):
    """A random GPT-2 with the tokenizer of a chat, and data in which every text spells all of its control tokens."""
    tokenizer = made("chat_like")
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=512, eos_token_id=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = "".join(specials(tokenizer))
    rows = [Problem(f"{i} + {text} 1 =", (f"{i} {text}", text), f"{text} {i}").to_dict() for i in range(40)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_no_path_of_a_run_makes_control_tokens_of_text(folder, monkeypatch):
    """Every call of the tokenizer during a whole run, TRL's own included."""
    seen = []
    original = PreTrainedTokenizerFast._encode_plus

    def spied(self, text, *args, **kwargs):
        found = original(self, text, *args, **kwargs)
        given, rows = ([text], [found["input_ids"]]) if isinstance(text, str) else (text, found["input_ids"])
        seen.extend((self, one, row) for one, row in zip(given, rows, strict=True))
        return found

    monkeypatch.setattr(PreTrainedTokenizerFast, "_encode_plus", spied)
    data = f"{{path: '{folder / 'data.jsonl'}'}}"
    changes = [
        f"output_dir={folder}", "model.config=null", f"model.name_or_path={folder / 'model'}", f"data.train={data}",
        f"data.eval={data}", "data.keep_overlap=true", "evaluate.max_new_tokens=4", "evaluate.problems=4",
        "tracking.wandb=false",
        # Right answers are longer than what a test should write, so nothing is compared with them.
        "evaluate.scorer=answer_format", "rl.rewards=[{function: answer_format}]",
        "curriculum.supervision=none", *(f"{stage}.trainer.max_steps=1" for stage in ("sft", "curriculum", "rl")),
    ]  # fmt: skip
    run(load_recipe(TINY, changes))
    spelling = [(tokenizer, row) for tokenizer, text, row in seen if "<|latent|>" in text and "<|im_end|>" in text]
    assert len(spelling) > 100
    assert all(control_ids(tokenizer).isdisjoint(row) for tokenizer, row in spelling)


def test_a_sample_of_such_a_question_has_as_many_latents_as_any_other(folder):
    reasoner = load_reasoner(folder / "model", num_latents=3)
    plain, spelling = reasoner.generate(["17 + 5 =", "17 + <|latent|> <|im_end|> 5 ="], max_new_tokens=2)
    assert plain.num_latents == spelling.num_latents == [3]
