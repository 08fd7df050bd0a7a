"""Untrained models from a recipe's `model.config`: a Transformers config and a word-level tokenizer of the data."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ...data.answer_formats import HASH, answer_format_of
from ...data.errors import DataError
from ...data.problem import Problem
from ..latent.config import ModelError
from ..latent.tokens import SPECIAL_TOKENS, prepare_tokenizer
from ..recipe.load import nearest
from .load import make_reasoner

PAD, EOS, UNKNOWN = "<|pad|>", "<|end|>", "<|unknown|>"
CONTROL = frozenset({PAD, EOS, UNKNOWN, *SPECIAL_TOKENS})


def build_tokenizer(problems: Iterable[Problem], answer_format: str = HASH.name) -> PreTrainedTokenizerFast:
    """A tokenizer with one token for each word of the problems. White space separates words and leaves no token.

    Args:
        answer_format: How answers are written: `\\boxed{18}` is one word, and so is the `18.` that ends a sentence.

    Raises:
        DataError: A word that is the name of a control token.
    """
    words, form = set[str](), answer_format_of(answer_format)
    announces = form.before.split() if form.before.endswith(" ") else []
    for problem in problems:
        own = {word for text in (problem.question, *problem.steps, problem.answer) for word in text.split()}
        if own & CONTROL:
            raise DataError(
                f"The word {min(own & CONTROL)!r} of {problem.named} is the name of a control token of the tokenizer "
                "that is built from the data. Write it in another way, or remove the row."
            )
        words |= own.union(form.written(problem.answer).split())
    vocabulary = [PAD, EOS, UNKNOWN, *announces, *sorted(words.difference(announces))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN, padding_side="left"
    )
    prepare_tokenizer(wrapped)
    return wrapped


def build_config(config: dict[str, Any], tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    """The Transformers config of an untrained model.

    Args:
        config: `model_type` and fields of that Transformers config; vocabulary and special ids come from the tokenizer.

    Raises:
        ModelError: Unknown model type or field, or values the config class refuses.
    """
    fields = dict(config)
    model_type = fields.pop("model_type")
    if model_type not in CONFIG_MAPPING:
        close = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=1)
        hint = f", did you mean {close[0]!r}?" if close else ", for example gpt2 or llama."
        raise ModelError(f"Unknown model.config.model_type {model_type!r}{hint}")
    config_class = CONFIG_MAPPING[model_type]
    known = set(config_class().to_dict()) | set(config_class.attribute_map)
    for key in fields:
        if key not in known:
            hint = nearest(key, sorted(known))
            raise ModelError(f"Unknown key 'model.config.{key}' for {config_class.__name__}{hint}")
    special = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    with _refusals_named():
        return config_class(**{**fields, **special, "vocab_size": len(tokenizer)})


def build_model(
    config: dict[str, Any], problems: Iterable[Problem], seed: int, folder: Path, answer_format: str = HASH.name
) -> None:
    """Builds an untrained model and its tokenizer and saves them as an ordinary Hugging Face folder.

    Args:
        config: See `build_config`.
        answer_format: See `build_tokenizer`.

    Raises:
        ModelError: Unknown model type or config field values the model refuses.
    """
    tokenizer = build_tokenizer(problems, answer_format)
    built = build_config(config, tokenizer)
    torch.manual_seed(seed)
    with _refusals_named():
        model = AutoModelForCausalLM.from_config(built, dtype=torch.float32)
    make_reasoner(model, tokenizer).save_pretrained(folder)


def architecture(config: PretrainedConfig, trust_remote_code: bool = False) -> PreTrainedModel:
    """A model without weights, on the meta device: only its modules, their names and shapes.

    Raises:
        ModelError: A config that no causal language model can be built from.
    """
    with _refusals_named(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


@contextlib.contextmanager
def _refusals_named() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each config class and model raises errors of its own
        raise ModelError(f"No causal language model can be built from model.config: {error}") from error
