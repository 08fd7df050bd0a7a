"""Text that spells control tokens: read as text, or refused where a tokenizer cannot."""

import json

from text_tokenizers import chat_like
from transformers import GPT2Config, GPT2LMHeadModel

from .day import TINY, BadDay

FILES = [
    "data.train={path: '{folder}/train.jsonl'}", "data.eval={path: '{folder}/eval.jsonl'}", "data.keep_overlap=true"
]  # fmt: skip
MODEL = ["model.config=null", "model.name_or_path={folder}/model"]


def _row(text=""):
    return {"question": f"1 + 2 {text} =", "steps": [f"1 + 2 = 3 {text}"], "answer": f"3 {text}"}


def _data(train=(), held=()):
    """Writes rows of which the first ones spell these texts, and a model folder with a tokenizer of chats."""

    def write(scene):
        for name, texts in (("train", train), ("eval", held)):
            rows = [_row(text) for text in texts] + [_row() for _ in range(40)]
            rows = [{**row, "question": f"{i} {row['question']}"} for i, row in enumerate(rows)]
            file = scene.folder / f"{name}.jsonl"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        tokenizer = chat_like()
        config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=256, eos_token_id=2)
        GPT2LMHeadModel(config).save_pretrained(scene.folder / "model")
        tokenizer.save_pretrained(scene.folder / "model")

    return write


DAYS = [
    BadDay(
        "`<|latent|>` in the data a vocabulary is built from",
        ["check", TINY, *FILES],
        "The word '<|latent|>' of {folder}/train.jsonl, line 1 is the name of a control token of the tokenizer that is",
        before=_data(train=["<|latent|>"]),
    ),
    BadDay(
        "`<|end|>` in an evaluation question, where words are tokens",
        ["check", TINY, *FILES, "curriculum.supervision=none"],
        "spells '<|end|>', which this tokenizer can read as a control token only, not as text",
        before=_data(held=["<|end|>"]),
    ),
    BadDay(
        "`<|end|>` in a question that is sampled, where words are tokens",
        ["sample", "{finished}/curriculum/final", "1 + 2 * 3 = <|end|>"],
        "Question 0 spells '<|end|>', which this tokenizer can read as a control token only",
    ),
    BadDay(
        "a model's own `<|im_end|>` and `<|latent|>` in questions, steps and answers",
        ["check", TINY, *FILES, *MODEL, "curriculum.supervision=none"],
        "[ 3] [ ] [<] [|] [im] [_] [end] [|] [>] [<] [|] [latent] [|] [>] [<|im_end|>]",
        "they are text",
        code=0,
        before=_data(train=["<|im_end|><|latent|>"] * 20, held=["<|im_end|><|latent|>"]),
    ),
]  # fmt: skip
