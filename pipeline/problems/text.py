"""Text of users as tokens. It is always text: no word of it becomes a control token, whatever it spells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from ...data.errors import DataError, shown
from ...data.problem import check_unicode


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that stand for no text: the special tokens, but not the one for words that the tokenizer does not know."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # GPT-2 declares its end of text as the token for unknown words too, and knows every word.
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
    return frozenset({*added, *tokenizer.all_special_ids} - unknown)


def text_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, name: Callable[[int], str]) -> list[list[int]]:
    """Token ids of texts, without what a tokenizer puts around a text.

    A special token that is spelled in a text is split into tokens of text, or is an unknown word to a tokenizer of
    words.

    Args:
        name: Names a text in messages, by its place.

    Raises:
        DataError: A text in which the tokenizer sees a control token all the same, or that is no Unicode text.
    """
    if not texts:
        return []
    for place, text in enumerate(texts):
        check_unicode(text, name(place))
    rows = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    control = control_ids(tokenizer)
    for place, row in enumerate(rows):
        if not control.isdisjoint(row):
            token = next(tokenizer.convert_ids_to_tokens(i) for i in row if i in control)
            raise DataError(
                f"{name(place)} spells {token!r}, which this tokenizer can read as a control token only, not as text: "
                f"{shown(texts[place])}. Write it in another way, or remove the row."
            )
    return rows
