"""Models of which it is known what their answers are made of, on a task of one-word questions."""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from neuralese.data.problem import Problem
from neuralese.pipeline.model.build import build_tokenizer
from neuralese.pipeline.model.load import make_reasoner
from neuralese.pipeline.recipe.schema import EvaluateSection

WORDS = 12
SETTINGS = EvaluateSection(max_new_tokens=2, bootstrap=200, batch_size=7)


def word_problem(number):
    """q5 has the steps s5 and t5, and the answer a5."""
    number %= WORDS
    return Problem(f"q{number}", (f"s{number}", f"t{number}"), f"a{number}")


def word_problems(count=36):
    return [word_problem(i * 5) for i in range(count)]


def next_word(problem):
    """The counterfactual: the next question."""
    return word_problem(int(problem.question[1:]) + 1)


def copying(num_latents=2, thought_source="raw", **latent):
    """A GPT-2 without attention or MLP: what comes next depends on the last column alone.

    Every word has an axis of its own. A latent made from the word q5 lies on the axis of q5, and so do those after it;
    the head reads a5 there, and the end after a5. The answer is made of the last latent and of nothing else, and each
    latent of the one before it. With `thought_source="pause_multi"` latents hand nothing on, and all answers are the
    same.
    """
    tokenizer = build_tokenizer([word_problem(i) for i in range(WORDS)])
    size = len(tokenizer)
    config = GPT2Config(
        n_embd=2 * size, n_layer=1, n_head=2, n_positions=16, vocab_size=size, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    reasoner = make_reasoner(model, tokenizer, num_latents=num_latents, thought_source=thought_source, **latent)
    model, word = reasoner.model, tokenizer.convert_tokens_to_ids
    with torch.no_grad():
        block = model.transformer.h[0]
        for weight in (block.attn.c_proj.weight, block.mlp.c_proj.weight, model.transformer.wpe.weight):
            weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(size, 2 * size))
        model.lm_head.weight.zero_()
        for number in range(WORDS):
            model.lm_head.weight[word(f"a{number}"), word(f"q{number}")] = 1.0
            model.lm_head.weight[tokenizer.eos_token_id, word(f"a{number}")] = 1.0
    return reasoner


class Ignoring:
    """Stands for a reasoner that makes latents and answers from the question alone."""

    def __init__(self, reasoner):
        self.reasoner, self.config = reasoner, reasoner.config

    def generate(self, prompts, noise=None, **options):
        return self.reasoner.generate(prompts, **options)
