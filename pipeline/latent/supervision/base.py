"""Latent supervision: help for the latents while they are trained. Nothing of it is needed at inference.

- `none`: the loss on the text after the latents alone (Coconut).
- `next_step`: the state a latent is made from also predicts the first token of the step it stands for, through the
  model's own head. A label on the placeholder, so the ordinary loss does it. For steps of one token.
- `decoder`: an auxiliary decoder reads each latent and predicts all tokens of its step (`StepDecoder`).
- `distillation`: the state before the answer is drawn to that of the text chain of thought (`Distillation`).

A supervision that is a module gets what `collate.Collator` puts under `supervision_inputs` in a batch. It returns a sum
that the model divides by the number of labels in the batch, so that accumulated micro-batches equal one big batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from ..config import ModelError, check_options
from ..engine.layout import positions_of
from ..engine.precision import computing, precise
from ..engine.zero import whole

IGNORE = -100


@dataclass
class States:
    """What a forward over latents knows before its loss.

    Attributes:
        hidden: (B, S, d) last hidden states in packed order.
        latents: (B, L, d) the vectors fed back, zero beyond a row's count.
        packed_column: (B, T) packed column of each cell of the batch.
        layers: (B, Q, d) hidden states after each layer at the last Q packed columns, for supervisions that need them.
    """

    hidden: Tensor
    latents: Tensor
    packed_column: Tensor
    layers: tuple[Tensor, ...] = ()


class Supervision(nn.Module):
    """An auxiliary loss.

    Attributes:
        needs_layers: Whether it reads the hidden states of all layers.
    """

    needs_layers: ClassVar[bool] = False

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        """Checks the values of options against a model with this text config.

        Raises:
            ValueError: A value out of its range.
        """

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """The loss in nats, summed over the batch; a scalar."""
        raise NotImplementedError


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
            theirs = model.base_model.state_dict()
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
            return model._head(self._hidden(model, dummy, step_ids.new_zeros(1, 1))).sum() * 0.0
        thoughts = latents[:, : most * c].unflatten(1, (most, c))[rows, steps]  # (N, c, d)
        target = step_ids[rows, steps]  # (N, Y)
        logits = model._head(self._hidden(model, thoughts, target.clamp_min(0)))  # (N, Y, V)
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
                new = model._head(self._hidden(model, thoughts, padded)[:, -1]).argmax(-1, keepdim=True)
            tokens = torch.cat([tokens, new], 1)
            if (tokens == eos_token_id).any(1).all():
                break
        return [row[: row.index(eos_token_id)] if eos_token_id in row else row for row in tokens.tolist()]


class Distillation(Supervision):
    """L = L_teacher + γ · mean_l smooth_l1(h_l, sg[h*_l]) / std(h*_l) (CODI, arXiv 2502.21074).

    The same model is teacher and student. h* are its hidden states on the text chain of thought, at the token before
    the answer; h those after latents. L_teacher is the loss on the text, which keeps the teacher good. Departures: std
    is that of a row's own state, not of the batch, so that a row's loss does not depend on the rows beside it; the
    parts of a row count as often as it has labels.
    """

    needs_layers = True

    def __init__(self, model: PreTrainedModel, gamma: float = 1.0) -> None:
        super().__init__()
        self.gamma = gamma

    @classmethod
    def check(cls, options: dict[str, Any], config: Any) -> None:
        gamma = options.get("gamma", 1.0)
        if not (isinstance(gamma, int | float) and gamma > 0):
            raise ValueError(f"gamma={gamma} must be above 0")

    def forward(self, model: Any, states: States, batch: dict[str, Tensor]) -> Tensor:
        """
        Args:
            batch: `teacher_ids`, `teacher_mask`, `teacher_labels` (B, U) the text form; `teacher_position`,
                `student_position` (B,) columns of the token before the answer; `num_labels` (B,) labels of a row.
        """
        labels, weight = batch["teacher_labels"], batch["num_labels"].float()  # (B, U), (B,)
        output = model.base_model(
            input_ids=batch["teacher_ids"],
            attention_mask=batch["teacher_mask"],
            position_ids=positions_of(batch["teacher_mask"]),
            use_cache=False,
            output_hidden_states=True,
        )
        rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        logits = model._head(output.last_hidden_state[rows, columns])
        losses = F.cross_entropy(precise(logits), labels[rows, columns + 1], reduction="none")
        share = weight / (labels[:, 1:] != IGNORE).sum(1)  # (B,)
        teacher = (losses * share[rows]).sum()
        row = torch.arange(len(labels), device=labels.device)
        packed = states.packed_column[row, batch["student_position"]]
        # (B,) in the last pass, which holds the answers of all rows with latents. A row without is its own teacher.
        column = packed - (states.hidden.size(1) - states.layers[0].size(1))
        distance = torch.zeros_like(weight)
        for theirs, ours in zip(output.hidden_states[1:], states.layers, strict=True):
            target = theirs[row, batch["teacher_position"]].detach().float()  # (B, d)
            state = ours[row, column.clamp_min(0)].float()
            distance = distance + F.smooth_l1_loss(state, target, reduction="none").mean(1) / target.std(1)
        return teacher + self.gamma * (distance / len(states.layers) * weight * (column >= 0)).sum()


SUPERVISIONS: dict[str, type[Supervision] | None] = {
    "none": None,
    "next_step": None,
    "decoder": StepDecoder,
    "distillation": Distillation,
}


def build_supervision(model: PreTrainedModel, name: str, options: dict[str, Any]) -> Supervision | None:
    """The module of a supervision, or None where it needs none.

    Raises:
        ModelError: Unknown name or option, or a value the supervision refuses.
    """
    check_supervision(name, options, model.config.get_text_config())
    kind = SUPERVISIONS[name]
    return kind(model, **options) if kind is not None else None


def check_supervision(name: str, options: dict[str, Any], config: Any = None) -> None:
    """What can be checked without a model.

    Args:
        config: The model's text config; None: values that depend on it are not checked.

    Raises:
        ModelError: Unknown name or option, or a value the supervision refuses.
    """
    if name not in SUPERVISIONS:
        raise ModelError(f"Unknown supervision {name!r}. Choose one of {sorted(SUPERVISIONS)}.")
    kind = SUPERVISIONS[name]
    check_options("supervision_options", options, kind, f"supervision {name!r}")
    if kind is not None and config is not None:
        try:
            kind.check(options, config)
        except ValueError as error:
            raise ModelError(f"supervision_options={options} of {name!r}: {error}") from error
