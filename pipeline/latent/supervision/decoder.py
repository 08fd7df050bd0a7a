"""An auxiliary decoder writes the step that a latent stands for."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from ..engine.precision import computing, precise
from ..engine.quantized import full_state_dict
from ..engine.sharded_weights import whole
from .base import IGNORE, States, Supervision


class StepDecoder(Supervision):
    """L = Σ_k mean_i −log p(y_{k,i} | z_k, y_{k,<i}) (SIM-CoT, arXiv 2509.20317).

    z_k are the latents of step k, y_k its tokens and the end-of-sequence token. The decoder is a stack of the model's
    own kind of layers that begins as a copy of the first ones; embeddings and head are the model's. A step counts as
    much as one label. Kept with the checkpoint, it reads thoughts back as text (`read`).
    """

    def __init__(self, model: PreTrainedModel, layers: int | None = None) -> None:
        """
        Args:
            layers: Layers of the decoder, at most as many as the model has. Default: 2, or all where it has fewer.
        """
        super().__init__()
        config = copy.deepcopy(model.config.get_text_config())
        if layers is None:
            layers = min(2, config.num_hidden_layers)
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        config.num_hidden_layers = layers
        trunk = AutoModel.from_config(config).to(model.dtype)
        trunk.set_input_embeddings(None)  # it is fed vectors
        with whole([*model.base_model.parameters(), *trunk.parameters()], change=True):
            theirs = full_state_dict(model.base_model)
            trunk.load_state_dict({name: theirs[name] for name in trunk.state_dict() if name in theirs}, strict=False)
        self.trunk = trunk

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        layers = options.get("layers")
        if layers is not None and not (type(layers) is int and 1 <= layers <= config.num_hidden_layers):
            raise ValueError(f"layers={layers} must lie between 1 and the model's {config.num_hidden_layers}")

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """
        Args:
            batch: `step_ids` (B, K, Y), the tokens of step k of each row, -100 beyond its end.
        """
        step_ids, latents = batch["step_ids"], states.latents
        c = model.latent_config.latents_per_step
        most = min(step_ids.size(1), latents.size(1) // c)
        rows, steps = (step_ids[:, :most, 0] != IGNORE).nonzero(as_tuple=True)  # (N,) steps that have latents
        if len(rows) == 0:
            # Run on nothing in particular and count for nothing: under ZeRO-3 all ranks run the same modules.
            dummy = latents.new_zeros(1, c, latents.size(2)) + states.hidden[:1, :1] * 0.0
            return model.head_logits(self._hidden(model, dummy, step_ids.new_zeros(1, 1))).sum() * 0.0
        thoughts = latents[:, : most * c].unflatten(1, (most, c))[rows, steps]  # (N, c, d)
        target = step_ids[rows, steps]  # (N, Y)
        logits = model.head_logits(self._hidden(model, thoughts, target.clamp_min(0)))  # (N, Y, V)
        losses = F.cross_entropy(precise(logits).flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="none")
        is_target = target != IGNORE
        return (losses.view_as(target).sum(1) / is_target.sum(1)).sum()

    def _hidden(self, model: Any, thoughts: Tensor, tokens: Tensor) -> Tensor:
        """States (N, Y, d) that predict tokens (N, Y), each after the latents (N, c, d) and the tokens before it."""
        embeds = model.get_input_embeddings()(tokens[:, :-1])
        inputs = torch.cat([thoughts, embeds.to(thoughts.dtype)], 1)
        return self.trunk(inputs_embeds=inputs, use_cache=False).last_hidden_state[:, thoughts.size(1) - 1 :]

    @torch.no_grad()
    def read(self, model: Any, latents: Tensor, eos_token_id: int, max_new_tokens: int = 32) -> list[list[int]]:
        """Greedy token ids of the steps that latents (L, d) stand for, c latents a step."""
        c = model.latent_config.latents_per_step
        thoughts = latents[: len(latents) // c * c].unflatten(0, (-1, c))  # (K, c, d)
        tokens = torch.zeros(len(thoughts), 0, dtype=torch.long, device=latents.device)
        for _ in range(max_new_tokens):
            padded = F.pad(tokens, (0, 1))  # the last column is a place, not a token
            with computing(model):
                new = model.head_logits(self._hidden(model, thoughts, padded)[:, -1]).argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], 1)
            if (tokens == eos_token_id).any(1).all():
                break
        return [row[: row.index(eos_token_id)] if eos_token_id in row else row for row in tokens.tolist()]
