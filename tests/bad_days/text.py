"""Text that spells control tokens: read as text, or refused where a tokenizer cannot."""

import json

from text_tokenizers import chat_like
from transformers import GPT2Config, GPT2LMHeadModel

from .day import TINY, BadDay

FILES = [
    "data.train={path: '{folder}/train.jsonl'}", "data.eval={path: '{folder}/eval.jsonl'}", "data.keep_overlap=true"
]  # fmt: skip
MODEL = ["model.config=null", "model.name_or_path={folder}/model"]
CHAT = ["check", TINY, *FILES, *MODEL, "curriculum.supervision=none", "data.format=chat"]
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


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


def _chat(template):
    """The model folder, whose tokenizer has a chat template."""

    def write(scene):
        _data()(scene)
        (scene.folder / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")

    return write


def _lines(row_of):
    """Writes forty rows to both files."""

    def write(scene):
        text = "".join(json.dumps(row_of(str(i))) + "\n" for i in range(40))
        for name in ("train", "eval"):
            (scene.folder / f"{name}.jsonl").write_text(text, encoding="utf-8")

    return write


_user = {"role": "user", "content": "1 + 2 ="}
_conversations = _lines(
    lambda i: {"question": [_user, {"role": "assistant", "content": i}, _user], "steps": ["3"], "answer": "3"}
)
_solved = _lines(lambda i: {"messages": [_user, {"role": "assistant", "content": "3"}]})
_unbalanced = _lines(lambda i: {"question": f"{i} + 2 =", "steps": [], "answer": "3}"})

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
    BadDay(
        "a chat of a model without a chat template",
        ["check", TINY, "data.format=chat"],
        "data.format=chat needs a chat template, and the tokenizer has none, as those of base models.",
    ),
    BadDay(
        "a system prompt without a chat",
        ["check", TINY, "data.system_prompt=Be brief."],
        "system_prompt 'Be brief.' needs a chat template to stand in: set format: chat, or remove it",
    ),
    BadDay(
        "a system prompt, and a template that refuses system turns",
        [*CHAT, "data.system_prompt=Be brief."],
        "The chat template takes no system turn: TemplateError: System role not supported.",
        before=_chat("{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}" + TURNS),
    ),
    BadDay(
        "a system prompt, and a template that drops system turns",
        [*CHAT, "data.system_prompt=Be brief."],
        "The chat template drops the system turn 'Be brief.'.",
        before=_chat(TURNS.replace("in messages", "in messages if m['role'] != 'system'")),
    ),
    BadDay(
        "a template that does not open the assistant's turn",
        CHAT,
        "The chat template does not hold an assistant's turn that begins where the prompt ends",
        before=_chat(TURNS.partition("{% if add")[0]),
    ),
    BadDay(
        "a question of several turns, in lines",
        ["check", TINY, *FILES],
        "has a question of several turns, [{'role': 'user', 'content': '1 + 2 ='}, {'role': 'assistant', 'content':",
        before=_conversations,
    ),
    BadDay(
        "a conversation whose last message announces no answer",
        ["check", TINY, *FILES],
        "the assistant's text '3' announces no answer as '### ...'. Set data.answer_format to the way it does",
        before=_solved,
    ),
    BadDay(
        "an answer that holds the brace that ends a box",
        ["check", TINY, *FILES, "data.answer_format=boxed"],
        "answer '3}' holds '}', at which a model's answer ends, so none could ever be right",
        before=_unbalanced,
    ),
]  # fmt: skip
