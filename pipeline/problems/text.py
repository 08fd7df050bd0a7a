"""Text of users as token ids. No word of it becomes a control token, whatever it spells."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from ...data.errors import DataError, shown
from ...data.problem import check_unicode


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Ids that stand for no text: the special tokens, except the one for unknown words."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    # GPT-2, which knows every word, declares its end-of-text token as the token for unknown words too.
    unknown = {tokenizer.unk_token_id} - {tokenizer.eos_token_id, tokenizer.bos_token_id}
    return frozenset({*added, *tokenizer.all_special_ids} - unknown)


def text_ids(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, name: Callable[[int], str]) -> list[list[int]]:
    """Token ids of texts, without special tokens around them.

    A special token that is spelled in a text is split into ordinary tokens. A tokenizer of whole words takes it for an
    unknown word.

    Args:
        name: Names the text of an index in messages.

    Raises:
        DataError: The tokenizer sees a control token in a text all the same, or a text is not valid Unicode.
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
