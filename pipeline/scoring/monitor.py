"""A monitor of thoughts: scores of what is read in them, which may tell right answers from wrong ones.

- `distance`: the edit distance of the tokens that are read to those of the problem's own steps. It needs the steps, so
  it is for analysis, not for use.
- `valid`: the share of blocks that are valid by themselves, of those that say something; 0 where none says anything.
- `logprob`: the mean log-prob in nats of a token that is read, under the model that was trained on text steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...data.problem import Problem
from ..latent.engine.precision import computing, precise
from ..latent.sampling.generate import pad_left
from ..latent.supervision import IGNORE
from ..latent.thoughts import suppress
from ..model.reading import read_latents, said_blocks
from ..model.reasoner import Reasoner
from ..problems.encode import encode, encode_prompts
from ..statistics.edit_distance import edit_distance

# What a right answer is expected to go with: +1 a high score, -1 a low one.
EXPECTED = {"distance": -1, "valid": 1, "logprob": 1}


@dataclass(frozen=True)
class ReadThought:
    """What is read in the thought of a problem.

    Attributes:
        texts: Of each block of latents.
        scores: By name; None where the score says nothing about this problem.
    """

    texts: list[str]
    scores: dict[str, float | None]


@dataclass(frozen=True)
class Monitor:
    """Reads thoughts and scores them.

    Attributes:
        names: The scores that are asked for.
        valid_steps: Whether each of some steps of a problem is valid by itself; None where nothing can tell.
        writer: The model that was trained on text steps, which `logprob` needs.
    """

    names: tuple[str, ...]
    valid_steps: Callable[[Problem, Sequence[str]], list[bool] | None]
    writer: Reasoner | None = None

    def read(
        self,
        reasoner: Reasoner,
        problems: Sequence[Problem],
        counts: Sequence[int],
        loops: int | None = None,
        latents_per_step: int | None = None,
        batch_size: int = 64,
    ) -> list[ReadThought]:
        """Reads the thoughts that a model has about problems without noise.

        Args:
            counts: (P,) latents of each thought.
            loops: Of looped latents; None: as many as the checkpoint has.
            latents_per_step: Latents of a block; None: as many as the checkpoint has.
        """
        prompts = [
            reasoner.prompt_ids(problem.question, count) for problem, count in zip(problems, counts, strict=True)
        ]
        with reasoner.inference(loops):
            tokens = read_latents(reasoner, prompts, batch_size=batch_size).tokens[-1, :, :, 0].tolist()
        width = latents_per_step or reasoner.config.latents_per_step
        said = [said_blocks(reasoner, row[:count], width) for row, count in zip(tokens, counts, strict=True)]
        texts = [[reasoner.tokenizer.decode(block).strip() for block in blocks] for blocks in said]
        chains = [[token for block in blocks for token in block] for blocks in said]
        scores: dict[str, list[float | None]] = {}
        if "distance" in self.names:
            scores["distance"] = self._distances(reasoner, problems, chains)
        if "valid" in self.names:
            scores["valid"] = [self._valid(problem, row) for problem, row in zip(problems, texts, strict=True)]
        if "logprob" in self.names:
            assert self.writer is not None
            scores["logprob"] = chain_logprobs(self.writer, problems, chains, batch_size)
        return [
            ReadThought(row, {name: values[place] for name, values in scores.items()})
            for place, row in enumerate(texts)
        ]

    def _distances(
        self, reasoner: Reasoner, problems: Sequence[Problem], chains: Sequence[list[int]]
    ) -> list[float | None]:
        """To the problem's own steps; None without steps."""
        own = [
            [token for step in item.steps for token in step]
            for item in encode(problems, reasoner.tokenizer, reasoner.config)
        ]
        return [edit_distance(chain, steps) if steps else None for chain, steps in zip(chains, own, strict=True)]

    def _valid(self, problem: Problem, texts: Sequence[str]) -> float | None:
        valid = self.valid_steps(problem, texts)
        if valid is None:
            return None
        said = [is_valid for is_valid, text in zip(valid, texts, strict=True) if text]
        return float(np.mean(said)) if said else 0.0


@torch.no_grad()
def chain_logprobs(
    writer: Reasoner, problems: Sequence[Problem], chains: Sequence[list[int]], batch_size: int = 64
) -> list[float | None]:
    """Mean log-prob in nats of a token of each chain after its question, under a model that writes steps.

    Args:
        chains: (P) tokens that are read in the thought of each problem; an empty one has no log-prob (None).
    """
    questions = encode_prompts([problem.question for problem in problems], 0, writer.tokenizer, writer.config)
    found: list[float | None] = []
    for begin in range(0, len(problems), batch_size):
        asked, said = questions[begin : begin + batch_size], chains[begin : begin + batch_size]
        rows = [question + chain for question, chain in zip(asked, said, strict=True)]
        ids, mask = pad_left(rows, writer.eos_token_ids[0], writer.model.device)
        lengths = torch.tensor([len(chain) for chain in said], device=ids.device)
        is_said = torch.arange(ids.size(1), device=ids.device) >= ids.size(1) - lengths[:, None]
        if not is_said.any():
            found += [None] * len(said)
            continue
        labels = torch.where(is_said, ids, IGNORE)
        with writer.inference(None), computing(writer.model):
            logits = writer.model(input_ids=ids, attention_mask=mask, labels=labels).logits  # at the labels alone
        logits = suppress(precise(logits), writer.config.token_ids)
        logps = logits.log_softmax(-1).gather(1, ids[is_said][:, None]).squeeze(1)
        found += [round(float(part.mean()), 5) if len(part) else None for part in logps.split(lengths.tolist())]
    return found
