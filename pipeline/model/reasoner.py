"""The Python API: load a model with its tokenizer and sample thoughts and answers from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..latent.config import LatentConfig, ModelError, context_window
from ..latent.engine.quantized import is_quantized
from ..latent.noise import Noise, parse_noise
from ..latent.sampling.answers import Generated, SamplingParams
from ..latent.sampling.budget import Budget, check_budget
from ..latent.sampling.generate import generate
from ..latent.supervision import StepDecoder
from ..latent.thoughts import THOUGHT_SOURCES
from ..problems.checks import check_room
from ..problems.encode import encode_prompts
from ..system.files import follow_umask

DEFAULT_NEW_TOKENS = 64


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every token that ends an answer, that of the tokenizer first."""
    declared = model.generation_config.eos_token_id
    declared = [declared] if isinstance(declared, int) else list(declared or [])
    return list(dict.fromkeys([tokenizer.eos_token_id, *declared]))


@dataclass
class Samples:
    """n samples of one prompt.

    Attributes:
        texts: n answers without special tokens.
        token_ids: n answers as ids.
        logprobs: n log-probabilities in nats, each summed over its answer's tokens.
        latents: (n, L, d) the vectors fed back, zero beyond a sample's count.
        num_latents: Latents of each sample.
        seeds: n integers; `generate(..., seeds=...)` makes the same samples again.
    """

    texts: list[str]
    token_ids: list[list[int]]
    logprobs: list[float]
    latents: Tensor
    num_latents: list[int]
    seeds: list[int]


@dataclass
class Reasoner:
    """A latent reasoner: a Hugging Face model whose forward runs latents, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """See `LatentMixin.forward`."""
        return self.model(*args, **kwargs)

    @property
    def config(self) -> LatentConfig:
        """The latent section of the model's config."""
        return self.model.latent_config

    @property
    def eos_token_ids(self) -> list[int]:
        """Every token that ends an answer, as the tokenizer and the model declare them."""
        return eos_token_ids(self.model, self.tokenizer)

    def prompt_ids(self, question: str, num_latents: int | None = None) -> list[int]:
        """Token ids of a question and its latent placeholders (default: as many as the checkpoint was trained for)."""
        count = self.config.num_latents if num_latents is None else num_latents
        return encode_prompts([question], count, self.tokenizer, self.config)[0]

    def generate(
        self,
        prompts: Sequence[str],
        n: int = 1,
        noise: Noise | str | None = None,
        temperature: float = 0.0,
        max_new_tokens: int | None = None,
        num_latents: int | None = None,
        loops: int | None = None,
        seed: int = 0,
        seeds: Sequence[Sequence[int]] | None = None,
        batch_size: int = 256,
        batch_tokens: int | None = None,
        on_samples: Callable[[int, Samples], None] | None = None,
        **sampling: Any,
    ) -> list[Samples]:
        """Samples n answers for each prompt.

        Args:
            noise: Noise on the latents as `kind:scale`; None: no noise.
            temperature: Of the answer tokens; 0 takes the most likely token.
            max_new_tokens: Default: 64, or what the context window leaves for the longest prompt.
            num_latents: Default: as many as the checkpoint was trained for; 0: reason in text.
            loops: Of looped latents. Default: as many as the checkpoint was trained for.
            seed: Base of the seeds. Sample j of prompt i does not depend on the batch it is drawn in.
            seeds: n seeds for each prompt, to replay samples.
            batch_size: The most answers drawn at once.
            batch_tokens: The most tokens whose keys and values are held at once: question, latents and answer of each
                row. None: what half of the free memory holds. Samples do not depend on either.
            on_samples: Called with a prompt's place and its samples as soon as they are there.
            sampling: top_k, top_p, min_p.

        Raises:
            ModelError: An empty question, one that leaves no room in the context window, noise without latents,
                batch_tokens that do not hold one answer, or too little memory.
        """
        if not prompts:
            return []
        noise = parse_noise(noise) if isinstance(noise, str) else noise
        count = self.config.num_latents if num_latents is None else num_latents
        if noise is not None and (count == 0 or not THOUGHT_SOURCES[self.config.thought_source].is_recurrent):
            raise ModelError(
                f"noise={noise} has no latents to fall on: num_latents is {count}, the thought source "
                f"{self.config.thought_source!r}. Leave the noise out, or use a checkpoint with latents."
            )
        encoded = encode_prompts(prompts, count, self.tokenizer, self.config)
        if max_new_tokens is None:
            longest = max(map(len, encoded))
            room = DEFAULT_NEW_TOKENS if self.context_window is None else self.context_window - longest
            max_new_tokens = max(1, min(DEFAULT_NEW_TOKENS, room))
        options = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens, **sampling)
        check_room(prompts, encoded, max_new_tokens, self.context_window)
        if seeds is None:
            drawn = torch.randint(2**62, (len(prompts), n), generator=torch.Generator().manual_seed(seed))
        else:
            drawn = torch.tensor(seeds)
        with self.inference(loops):  # before anything is drawn
            check_budget(Budget.key, batch_tokens, self.config, encoded, max_new_tokens)
        if noise is not None:
            noise.prepare(self.model)
        per_batch = max(1, batch_size // drawn.size(1))
        samples: list[Samples] = []
        with self.inference(loops):
            for begin in range(0, len(prompts), per_batch):
                chunk, rows = encoded[begin : begin + per_batch], drawn[begin : begin + per_batch]
                samples += self._sample(chunk, rows, options, noise, Budget(batch_tokens, batch_size))
                if on_samples is not None:
                    for index in range(begin, len(samples)):
                        on_samples(index, samples[index])
        return samples

    @contextmanager
    def inference(self, loops: int | None) -> Iterator[None]:
        """Inference mode, with another number of loops if one is given."""
        was_training, section = self.model.training, self.config
        self.model.eval()
        if loops is not None:
            self.model.latent_config = replace(section, loops=loops)
        try:
            yield
        finally:
            self.model.train(was_training)
            self.model.latent_config = section

    def _sample(
        self, prompts: list[list[int]], seeds: Tensor, sampling: SamplingParams, noise: Noise | None, budget: Budget
    ) -> list[Samples]:
        count, n = seeds.shape
        rows = torch.arange(count).repeat_interleave(n)
        drawn = generate(self.model, prompts, rows, seeds.flatten(), sampling, noise, self.eos_token_ids, budget)
        return self.samples_of(drawn, n)

    def samples_of(self, drawn: Generated, n: int) -> list[Samples]:
        """Samples of which n in a row are of one prompt, with their texts."""
        texts = self.tokenizer.batch_decode(drawn.token_ids, skip_special_tokens=True)
        totals, counts, replay = drawn.logprobs.sum(1).tolist(), drawn.num_latents.tolist(), drawn.seeds.tolist()
        samples = []
        for begin in range(0, len(texts), n):
            part = slice(begin, begin + n)
            samples.append(
                Samples(
                    texts[part], drawn.token_ids[part], totals[part], drawn.latents[part], counts[part], replay[part]
                )
            )
        return samples

    def read_thoughts(self, latents: Tensor) -> list[str]:
        """The steps that latents (L, d) stand for, as the auxiliary decoder reads them.

        Raises:
            ModelError: The checkpoint was loaded without a decoder.
        """
        decoder = self.model.supervision
        if not isinstance(decoder, StepDecoder):
            raise ModelError(
                f"There is no decoder to read thoughts with: the checkpoint's supervision is "
                f"{self.config.supervision!r}. Train with curriculum.supervision=decoder, and load the curriculum's "
                "checkpoint with load_reasoner(..., supervised=True)."
            )
        tokens = decoder.read(self.model, latents, self.tokenizer.eos_token_id)
        return [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    @property
    def context_window(self) -> int | None:
        """Tokens and latents that fit into one row, or None where the model sets no limit."""
        return context_window(self.model.config.get_text_config())

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes an ordinary Hugging Face folder: safetensors, tokenizer, config with the latent section.

        Raises:
            ModelError: The weights are quantised.
        """
        if is_quantized(self.model):
            raise ModelError(
                f"This reasoner was loaded with quantised weights and is not written to {folder}: what they were "
                "quantised from would be lost. Load it without quantization and save that."
            )
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        follow_umask(Path(folder))
