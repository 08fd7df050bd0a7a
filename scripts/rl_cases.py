"""Models with random weights, and problems of random words, that RL steps are measured on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from neuralese.data.problem import Problem
from neuralese.pipeline.model.build import build_config, build_tokenizer
from neuralese.pipeline.model.load import make_reasoner

GROUP = 16  # rollouts a question


@dataclass(frozen=True)
class Case:
    """A random model, and the lengths of its rows in tokens."""

    model: dict[str, Any]
    vocabulary: int
    questions: int
    prompt: int
    latents: int
    answer: int

    @property
    def positions(self) -> int:
        """Latents and answer tokens that a step draws."""
        return self.questions * GROUP * (self.latents + self.answer)

    def trainer(self, steps: int) -> dict[str, Any]:
        """Fields of GRPOConfig that both trainers share."""
        return {
            "max_steps": steps, "per_device_train_batch_size": self.questions * GROUP, "num_generations": GROUP,
            "learning_rate": 1e-5, "beta": 0.0, "scale_rewards": "none", "logging_steps": 1, "save_strategy": "no",
        }  # fmt: skip

    def problems(self, count: int) -> list[Problem]:
        """Questions of random words, as many as fill a prompt that ends in `###` after its latents."""
        draws = torch.Generator().manual_seed(0)
        words = torch.randint(self.vocabulary, (count, self.prompt - 1), generator=draws).tolist()
        return [Problem(" ".join(f"w{word}" for word in row), [], "w0") for row in words]

    def save(self, folder: Path) -> None:
        """Writes the model with its latents, and the problems as JSONL."""
        every = Problem(" ".join(f"w{word}" for word in range(self.vocabulary)), [], "w0")
        tokenizer = build_tokenizer([every])
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(build_config(self.model, tokenizer))
        reasoner = make_reasoner(model, tokenizer, num_latents=self.latents)
        reasoner.save_pretrained(folder / "model")
        rows = [{"question": one.question, "answer": one.answer} for one in self.problems(256)]
        (folder / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads, "n_positions": 1024,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    }  # fmt: skip


_LLAMA = {
    "model_type": "llama", "num_hidden_layers": 16, "hidden_size": 128, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 1, "max_position_embeddings": 1024,
}  # fmt: skip
_LLAMA_1B = {
    "model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
CASES = {
    "quickstart": Case(_gpt2(2, 96, 4), 64, questions=32, prompt=14, latents=5, answer=6),
    "prompt64": Case(_gpt2(12, 768, 12), 50257, questions=1, prompt=64, latents=6, answer=16),
    "prompt512": Case(_gpt2(12, 768, 12), 50257, questions=1, prompt=512, latents=6, answer=16),
    "deep": Case(_LLAMA, 32000, questions=4, prompt=64, latents=6, answer=16),
    "llama1b": Case(_LLAMA_1B, 128256, questions=4, prompt=512, latents=6, answer=64),
}
