"""A reward model of latents: how likely a thought leads to a right answer, judged step by step.

After LatentRM (arXiv 2510.07745): it is trained on several thoughts of the same question, by a softmax among them at
every latent. It is a small head on the states of the reasoner's trunk, which is not trained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from ...data.errors import UserError
from ..latent.sampling.generate import pad_left
from ..latent.sampling.given import latent_states
from ..model.folder import check_model
from ..model.reasoner import Reasoner
from ..system.files import follow_umask


class LatentRewardError(UserError):
    """A latent reward model that cannot be trained or used as asked."""


class LatentRewardConfig(PretrainedConfig):
    """Shape of a latent reward model.

    Attributes:
        state_size: Size of the states that it reads: the reasoner's hidden size.
        width: Size of its hidden layer.
        num_latents: Latents of the thoughts that it was trained on. Each place has a bias of its own.
        checkpoint: Digest of the checkpoint whose thoughts it was trained on; None: not known.
    """

    model_type = "latent_reward"

    def __init__(
        self,
        state_size: int = 1,
        width: int = 256,
        num_latents: int = 1,
        checkpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.state_size, self.width, self.num_latents, self.checkpoint = state_size, width, num_latents, checkpoint


class LatentRewardModel(PreTrainedModel):
    """Latent rewards S_t = Σ_{u ≤ t} r_u, with r_u = w · gelu(A norm(h_u) + b_u) of the state h_u after latent u."""

    config_class = LatentRewardConfig

    def __init__(self, config: LatentRewardConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.state_size)
        self.first = nn.Linear(config.state_size, config.width)
        self.place = nn.Embedding(config.num_latents, config.width)
        self.last = nn.Linear(config.width, 1)
        self.post_init()

    def forward(self, states: Tensor) -> Tensor:
        """Latent rewards S_t (N, L) in nats after each latent, from the states (N, L, d) after it."""
        return self.rewards(states, 0).cumsum(1)

    def rewards(self, states: Tensor, first: int) -> Tensor:
        """r_u (N, L) of the states (N, L, d) after L latents, of which the first has index `first` (from 0)."""
        inner = self.first(self.norm(states.float())) + self.place.weight[first : first + states.size(1)]
        return self.last(nn.functional.gelu(inner)).squeeze(-1)

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Writes a folder that `load_latent_reward` reads."""
        super().save_pretrained(folder, **options)
        follow_umask(Path(folder))

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.zeros_(module.weight)


def step_loss(latent_rewards: Tensor, right: Tensor) -> Tensor:
    """Mean over questions and latents t of −Σ_i y_i log softmax_i(S_it), with y_i = c_i / Σ_j c_j over thoughts i.

    Args:
        latent_rewards: (Q, K, L) S of K thoughts for each of Q questions.
        right: (Q, K) c: share of right answers after each thought. One thought of each question is above 0.
    """
    target = right / right.sum(1, keepdim=True)
    return -(target[:, :, None] * latent_rewards.log_softmax(1)).sum(1).mean()


@torch.no_grad()
def thought_states(reasoner: Reasoner, questions: Sequence[str], latents: Sequence[Tensor]) -> Tensor:
    """States (N, L, d) after each latent of the thoughts of questions, those of a question in a row.

    Args:
        latents: (K, L, d) of each question.
    """
    model = reasoner.model
    prompts = [reasoner.prompt_ids(question) for question in questions]
    rows = [ids for ids, thoughts in zip(prompts, latents, strict=True) for _ in range(len(thoughts))]
    ids, mask = pad_left(rows, reasoner.tokenizer.eos_token_id, model.device)
    return latent_states(model, ids, mask, torch.cat(list(latents)).to(model.device))


@torch.no_grad()
def judge_thoughts(
    model: LatentRewardModel,
    reasoner: Reasoner,
    questions: Sequence[str],
    latents: Sequence[Tensor],
    batch_size: int = 256,
) -> list[list[float]]:
    """Latent rewards of whole thoughts, rounded as they are kept: K for each question.

    Args:
        latents: (K, L, d) of each question.
        batch_size: Thoughts read at once.
    """
    parts = [(asked, part) for asked, of in zip(questions, latents, strict=True) for part in of.split(batch_size)]
    rewards: list[float] = []
    while parts:
        count = max(1, sum(total <= batch_size for total in accumulate(len(part) for _, part in parts)))
        asked, read = zip(*parts[:count], strict=True)
        rewards += model(thought_states(reasoner, asked, read))[:, -1].tolist()
        parts = parts[count:]
    left = iter(rewards)
    return [[round(next(left), 5) for _ in range(len(thoughts))] for thoughts in latents]


def check_latent_reward(folder: str | Path) -> None:
    """Makes sure that a latent reward model is there.

    Raises:
        UserError: There is none, or its files are damaged.
    """
    file = Path(folder) / "config.json"
    if file.is_file():
        check_model(str(folder))
    if not file.is_file() or json.loads(file.read_text(encoding="utf-8")).get("model_type") != "latent_reward":
        raise LatentRewardError(f"There is no latent reward model in {folder}. `neuralese reward-model` trains one.")


def load_latent_reward(folder: str | Path, reasoner: Reasoner) -> LatentRewardModel:
    """Loads a latent reward model and checks that it fits a reasoner.

    Raises:
        UserError: There is none, its files are damaged, or it was trained for another shape.
    """
    check_latent_reward(folder)
    try:
        model, info = LatentRewardModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # of a broken folder, the loaders raise what the file makes of them
        said = " ".join(str(error).split())
        raise LatentRewardError(
            f"The latent reward model in {folder} cannot be loaded: {type(error).__name__}: {said[:300].rstrip('.')}. "
            "Train it again with `neuralese reward-model`."
        ) from error
    if info["missing_keys"]:  # they would stay random
        raise LatentRewardError(
            f"The latent reward model in {folder} lacks weights, the first: {min(info['missing_keys'])}. Train it "
            "again with `neuralese reward-model`."
        )
    size, count = reasoner.model.config.get_text_config().hidden_size, reasoner.config.num_latents
    if (model.config.state_size, model.config.num_latents) != (size, count):
        raise LatentRewardError(
            f"The latent reward model in {folder} reads {model.config.num_latents} latents of size "
            f"{model.config.state_size}, and the reasoner makes {count} of size {size}. Train one for this checkpoint."
        )
    return model.eval().to(reasoner.model.device)
