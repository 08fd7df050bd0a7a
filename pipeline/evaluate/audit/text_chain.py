"""How much a chain of thought in text says: the entropy of its tokens, and its compressed size."""

from __future__ import annotations

import bz2
import lzma
import math
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ....data.answer_formats import answer_format_of
from ....data.problem import Problem
from ....rewards.score import is_right
from ...latent.sampling.generate import pad_left
from ...latent.supervision import IGNORE
from ...latent.thoughts import suppress
from ...model.reasoner import Reasoner
from ...problems.encode import encode_prompts
from ...recipe.schema import EvaluateSection
from ...statistics.intervals import Mean
from .readings import BATCH


@dataclass(frozen=True)
class TextThought:
    """How much a model's own chains of thought in text say, drawn at temperature 1.

    Attributes:
        checkpoint: The model that wrote them.
        accuracy: Of the answers after them.
        tokens: Mean tokens of a chain, without the answer.
        entropy: Mean entropy of the next token in bits, given the question and the chain so far.
        compressed: Compressed bits for each token, of all chains together. The compressor does not know the question,
            and does not see all regularities.
    """

    checkpoint: str
    accuracy: Mean
    tokens: float
    entropy: float
    compressed: float


def measure_text(
    reasoner: Reasoner, problems: Sequence[Problem], settings: EvaluateSection, checkpoint: str, seed: int
) -> TextThought | None:
    """Lets a model think in text, and measures what it wrote before the answer.

    Returns:
        None where it writes no thought.
    """
    questions = [problem.question for problem in problems]
    samples = reasoner.generate(
        questions,
        temperature=1.0,
        num_latents=0,
        seed=seed,
        max_new_tokens=settings.max_new_tokens,
        **settings.at_once,
    )
    texts, ids = [s.texts[0] for s in samples], [s.token_ids[0] for s in samples]
    lengths = [thought_length(reasoner, row) for row in ids]
    if not sum(lengths):
        return None
    thoughts = [row[:length] for row, length in zip(ids, lengths, strict=True)]
    parts = [slice(begin, begin + BATCH) for begin in range(0, len(ids), BATCH)]
    entropies = torch.cat([_entropies(reasoner, questions[part], thoughts[part]) for part in parts])
    right = is_right(settings.scorer, problems, [[text] for text in texts], reasoner.config.answer_format)[:, 0]
    return TextThought(
        checkpoint,
        accuracy=Mean.share(right, settings.bootstrap, seed),
        tokens=sum(lengths) / len(lengths),
        entropy=entropies.mean().item(),
        compressed=compressed_bits([token for thought in thoughts for token in thought]),
    )


def compressed_bits(tokens: Sequence[int]) -> float:
    """Bits for each token, by the best of three compressors.

    Common tokens get small numbers, so that few tokens need a second byte.
    """
    number = {token: rank for rank, (token, _) in enumerate(Counter(tokens).most_common())}
    text = "".join(chr(number[token]) for token in tokens)
    data = text.encode("utf-8", "surrogatepass")
    return 8 * min(len(compress(data)) for compress in (zlib.compress, bz2.compress, lzma.compress)) / len(tokens)


def thought_length(reasoner: Reasoner, ids: Sequence[int]) -> int:
    """Number of tokens before the marker of the answer; all tokens if there is no marker."""
    text, marker = "", answer_format_of(reasoner.config.answer_format).marker
    for length, piece in enumerate(reasoner.tokenizer.batch_decode([[token] for token in ids])):
        text += piece
        if marker.search(text):
            return length
    return len(ids)


@torch.no_grad()
def _entropies(reasoner: Reasoner, questions: Sequence[str], thoughts: Sequence[Sequence[int]]) -> Tensor:
    """Entropy in bits of the model's next token at each token (N,) of the thoughts."""
    prompts = encode_prompts(questions, 0, reasoner.tokenizer, reasoner.config)
    rows = [prompt + list(thought) for prompt, thought in zip(prompts, thoughts, strict=True)]
    ids, mask = pad_left(rows, reasoner.eos_token_ids[0], reasoner.model.device)
    lengths = torch.tensor([len(thought) for thought in thoughts], device=ids.device)
    is_thought = torch.arange(ids.size(1), device=ids.device) >= ids.size(1) - lengths[:, None]
    if not is_thought.any():
        return torch.zeros(0)
    # Logits are computed at labels only.
    labels = torch.where(is_thought, ids, IGNORE)
    logits = reasoner.model(input_ids=ids, attention_mask=mask, labels=labels).logits  # (N, V)
    logits = suppress(logits.float(), reasoner.config.token_ids)
    return torch.distributions.Categorical(logits=logits).entropy().cpu() / math.log(2)
