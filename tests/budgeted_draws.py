"""Answers to four questions, drawn under a budget, and the ways that their latents are computed."""

import torch

from neuralese.pipeline.latent.noise import parse_noise
from neuralese.pipeline.latent.sampling import generate
from neuralese.pipeline.latent.sampling.answers import SamplingParams
from neuralese.pipeline.latent.sampling.budget import Budget

QUESTIONS = ["3 + 4 * 2 - 1 =", "6 - 5 =", "1 * 2 + 3 + 4 =", "2 + 2 * 6 ="]
# Prompts in no order, two of them with two answers to one thought.
ROWS = torch.tensor([0, 2, 1, 0, 3, 2, 0, 1, 0, 0, 3])
ANSWER_SEEDS = torch.tensor([5, 9, 2, 5, 7, 9, 6, 3, 8, -8, 7])
WAYS = {
    "passes": {}, "delimiters": {"delimiters": True}, "sweeps": {"jacobi_sweeps": 2}, "loops": {"loops": 2},
    "window": {"window": 1, "sees_question": False}, "stop head": {"stop_head": True},
}  # fmt: skip


def prompts_of(reasoner):
    return [reasoner.prompt_ids(question) for question in QUESTIONS]


def drawn(reasoner, noise, tokens=10**6, temperature=1.0, **budget):
    noise = parse_noise(noise)
    if noise is not None:
        noise.prepare(reasoner.model)
    sampling = SamplingParams(temperature=temperature, max_new_tokens=6)
    return generate.generate(
        reasoner.model, prompts_of(reasoner), ROWS, ANSWER_SEEDS, sampling, noise, reasoner.eos_token_ids,
        Budget(tokens, **budget),
    )  # fmt: skip
