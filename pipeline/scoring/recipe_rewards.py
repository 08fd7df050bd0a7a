"""Rewards of a recipe: functions, and sequence classifiers that score a question with its completion."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
from transformers.utils import logging as transformers_logging

from ...data.conversation import turns_of
from ...rewards.answers import completion_text
from ...rewards.checking import checked
from ...rewards.errors import RewardError
from ...rewards.loading import load_reward
from ...rewards.retries import Patience
from ..latent.config import context_window
from ..problems.text import control_ids
from ..recipe.schema import Reward
from ..system.processes import on_cpu

logger = logging.getLogger(__name__)
BATCH = 32  # texts in one pass


def recipe_reward(reward: Reward) -> Callable[..., Any]:
    """The reward function of an entry of `rl.rewards`, guarded by `checked`.

    Raises:
        RewardError: There is no such function or model.
    """
    patience = Patience(reward.timeout, reward.retries, reward.on_error)
    if reward.function is not None:
        return checked(load_reward(reward.function), reward.function, patience)
    assert reward.model is not None
    return checked(RewardModel(reward.model, reward.label), reward.model, patience)


def check_recipe_reward(reward: Reward) -> None:
    """Checks an entry of `rl.rewards` without loading weights. The config of a model on the hub is downloaded.

    Raises:
        RewardError: There is no such function or model, the label does not fit the model, or the tokenizer in its
            folder cannot be used.
    """
    if reward.function is not None:
        recipe_reward(reward)
        return
    assert reward.model is not None
    load_config(reward.model, reward.label)
    if Path(reward.model).is_dir():
        _load_tokenizer(reward.model)


class RewardModel:
    """A sequence classifier as a reward function `f(prompts, completions, **columns)`.

    The reward is the logit of a model with one label, and otherwise the probability of `label`. Question and completion
    are given in the form that the tokenizer has for two texts: its chat template, with the question's turns and an
    assistant message; a pair, if it has a separator token; or else one text of two lines. A text that is too long for
    the model loses its beginning; of a pair, the longer text does.

    Args:
        name: Hub id or folder, with weights as safetensors. Code that comes with the model is not run.
        label: Index of the label, if the model has several.

    Raises:
        RewardError: Nothing to load there, no classifier, a label that it does not have, or one that fails on a first
            question.
    """

    def __init__(self, name: str, label: int | None = None) -> None:
        self.name, self.label, self.config = name, label or 0, load_config(name, label)
        self.__name__ = Path(name).name  # under which TRL logs it
        self.model, self.tokenizer = _load(name)
        self.model.requires_grad_(False).eval().to("cpu" if on_cpu() else "cuda")
        self._has_warned = False
        try:
            limits = (self.tokenizer.model_max_length, context_window(self.config.get_text_config()))
            self.window = min((limit for limit in limits if limit is not None and limit < 10**9), default=None)
            self(["?"], ["### 1"])
        except Exception as error:  # a template, a vocabulary or a length that does not fit the rest
            raise _unloadable(name, error) from error

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], completions: Sequence[Any], **_: Any) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        rewards: list[float] = []
        for begin in range(0, len(texts), BATCH):
            batch = self._encode(prompts[begin : begin + BATCH], texts[begin : begin + BATCH])
            logits = self.model(**batch.to(self.model.device)).logits.float()  # (n, labels)
            if self.config.num_labels > 1:
                is_multi_label = self.config.problem_type == "multi_label_classification"
                logits = logits.sigmoid() if is_multi_label else logits.softmax(-1)
            rewards += logits[:, self.label].tolist()
        return rewards

    def _encode(self, questions: Sequence[str], texts: Sequence[str]) -> Any:
        """Token ids and masks (n, T) of questions with completions. Rows that are too long lose their beginning."""
        options: dict[str, Any] = {
            "padding": True, "truncation": self.window is not None, "max_length": self.window, "return_tensors": "pt",
        }  # fmt: skip
        if self.tokenizer.chat_template is not None:
            chats = [
                [*turns_of(question), {"role": "assistant", "content": text}]
                for question, text in zip(questions, texts, strict=True)
            ]
            try:
                batch = self.tokenizer.apply_chat_template(chats, sanitize_control_tokens=True, **options)
            except ValueError as error:
                raise self._unreadable(str(error)) from error
        else:
            given: tuple[list[str], ...] = (list(questions), list(texts))
            if self.tokenizer.sep_token is None:
                given = ([f"{question}\n{text}" for question, text in zip(*given, strict=True)],)
            batch = self.tokenizer(*given, split_special_tokens=True, return_special_tokens_mask=True, **options)
            self._check_text(batch["input_ids"], batch.pop("special_tokens_mask").bool())
        if batch["input_ids"].size(1) == self.window and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Questions with completions fill the %d tokens of the reward model %r; longer ones are judged without "
                "their beginning.",
                self.window,
                self.name,
            )
        return batch

    def _check_text(self, ids: Tensor, is_added: Tensor) -> None:
        """Makes sure that no text became a control token.

        Args:
            is_added: (n, T) True at control tokens that the tokenizer itself added.

        Raises:
            RewardError: One did.
        """
        control = torch.tensor(sorted(control_ids(self.tokenizer)))
        found = ids[torch.isin(ids, control) & ~is_added]
        if len(found):
            raise self._unreadable(f"it spells {self.tokenizer.convert_ids_to_tokens(found[0].item())!r}")

    def _unreadable(self, why: str) -> RewardError:
        return RewardError(
            f"The reward model {self.name!r} cannot read a question or completion as text: {why}, a control token of "
            "its tokenizer. Remove the problem, or set on_error: none, which goes on without its rewards."
        )


def load_config(name: str, label: int | None) -> Any:
    """The Transformers config of a reward model.

    Raises:
        RewardError: Nothing to load there, no classifier, or a label that it does not have.
    """
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except Exception as error:  # of a broken folder, the loaders raise what the file makes of them
        raise _unloadable(name, error) from error
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise RewardError(
            f"The reward model {name!r} is a {config.model_type!r} model, of which Transformers has no sequence "
            "classifier. Name one that has, or call the model in a reward function of your own."
        )
    if getattr(config, "quantization_config", None) is not None:
        raise RewardError(
            f"The reward model {name!r} is quantized, and quantized models are not loaded as rewards. Name one with "
            "whole weights, or call the model in a reward function of your own."
        )
    if config.num_labels > 1 if label is None else label >= config.num_labels:
        labels = ", ".join(f"{index}: {text}" for index, text in sorted(config.id2label.items()))
        received = "no label" if label is None else f"label {label}"
        raise RewardError(
            f"The reward model {name!r} has {config.num_labels} labels ({labels}) and was given {received}. Set label "
            "to the number of the one whose score is the reward."
        )
    return config


def _load(name: str) -> tuple[Any, PreTrainedTokenizerBase]:
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its report of weights is worded below
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype="auto", trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # of broken weights, the loaders raise what the file makes of them
        raise _unloadable(name, error) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if info["missing_keys"]:
        raise RewardError(
            f"The reward model {name!r} lacks {len(info['missing_keys'])} weights of a classifier, the first: "
            f"{min(info['missing_keys'])}. Name a model that was trained to classify or to score."
        )
    tokenizer = _load_tokenizer(name)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        ids = tokenizer("a b")["input_ids"]
    except Exception as error:  # as of weights
        raise _unloadable(name, error) from error
    if not ids:  # what is made of a folder without a tokenizer
        raise RewardError(f"The reward model {name!r} has no tokenizer. Save the one it was trained with beside it.")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise RewardError(
            f"The tokenizer of the reward model {name!r} has neither a pad_token nor an eos_token. Give it a pad_token."
        )
    # Absolute positions begin at the first token, and causal models score the last one that is no padding.
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    return tokenizer


def _unloadable(name: str, error: Exception) -> RewardError:
    said = " ".join(str(error).split())
    return RewardError(
        f"The reward model {name!r} cannot be loaded: {type(error).__name__}: {said[:300].rstrip('.')}. Check the "
        "folder or the hub id; weights must be safetensors, code that comes with a model is not run, private models "
        "need a Hugging Face token."
    )
