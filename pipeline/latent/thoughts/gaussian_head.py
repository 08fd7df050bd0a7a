"""A learned Gaussian around a learned map."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .base import Thought, register_thought_source
from .projection import Projection


@register_thought_source("gaussian_head")
class GaussianHead(Projection):
    """N(mu, sigma²): mu as `projection`, log sigma = log rms(E) + clamp(W h, min_log_std, 0) (CoLaR, arXiv 2505.16552).

    Without noise the latent is mu. Noise of the kind `learned` moves it by sigma · epsilon, with gradient into sigma.
    """

    gives = ("std",)

    def __init__(self, hidden_size: int, width: int | None = None, min_log_std: float = -5.0) -> None:
        super().__init__(hidden_size, width)
        if min_log_std >= 0:
            raise ValueError(f"min_log_std={min_log_std} must be below 0")
        self.min_log_std = min_log_std
        self.log_std = nn.Linear(hidden_size, hidden_size)
        # Begin in the middle of the range, where the clamp passes a gradient to both sides.
        nn.init.zeros_(self.log_std.weight)
        nn.init.constant_(self.log_std.bias, min_log_std / 2)

    def forward(self, hidden: Tensor, model: Any) -> Thought:
        log_std = self.log_std(hidden).clamp(self.min_log_std, 0.0)
        return Thought(super().forward(hidden, model).latent, log_std.exp() * model.latent_config.embedding_rms)
