"""The three special tokens of latent reasoning, and how a tokenizer and a model come to have them."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .config import ModelError

START, LATENT, END = "<|start-latent|>", "<|latent|>", "<|end-latent|>"
SPECIAL_TOKENS = (START, LATENT, END)


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int, int]:
    """Ids of (START, LATENT, END).

    Raises:
        ModelError: The tokenizer lacks one of them.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise ModelError(
            f"The tokenizer has no special tokens {missing}. Load the model with "
            "neuralese.pipeline.load_reasoner, which adds them, or call prepare_tokenizer first."
        )
    return vocabulary[START], vocabulary[LATENT], vocabulary[END]


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Adds the special tokens that are missing and a padding token; returns how many tokens were added.

    Raises:
        ModelError: The tokenizer has no end-of-sequence token, so that an answer could never end.
    """
    if tokenizer.eos_token is None:
        known = list(dict.fromkeys([*tokenizer.all_special_tokens, *tokenizer.added_tokens_encoder]))
        raise ModelError(
            f"The tokenizer of {tokenizer.name_or_path or 'the model'} has no eos_token, so an answer could never end. "
            f'Set "eos_token" in its tokenizer_config.json to the token that ends a text; it has {known[:8] or "none"}.'
        )
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.get_vocab()]
    # `replace` would drop the extra special tokens a chat tokenizer already has.
    added = tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return added


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Grows the embedding matrix to the tokenizer. New rows start at the mean of the old ones (Transformers' default).

    A matrix that is already larger, as padded vocabularies are, stays as it is.
    """
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
