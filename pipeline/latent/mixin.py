"""The reasoner: any Hugging Face causal language model whose `forward` also runs latents.

`latentize` gives a loaded model a subclass of its own class. It stays a `PreTrainedModel`: TRL, PEFT, DeepSpeed and
`save_pretrained` treat it as the model it is, and its weights open with plain `AutoModelForCausalLM`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from .config import LatentConfig, ModelError, context_window
from .engine.layout import Layout, plan_passes, plan_sweeps, positions_of
from .engine.passes import Branch, Packed, PassResult, run_passes, run_sweeps
from .engine.precision import in_compute_dtype, precise
from .noise import Noise
from .output import LatentOutput
from .sampling.given import given_latents
from .supervision import IGNORE, States, Supervision
from .thoughts import THOUGHT_SOURCES, ThoughtSource
from .value_head import ValueHead


class LatentMixin:
    """Adds latents to a `*ForCausalLM` class. See `latentize`."""

    latent_config: LatentConfig
    thought_source: ThoughtSource
    stop_head: nn.Linear | None
    supervision: Supervision | None
    value_head: ValueHead | None
    latent_watch: Callable[[Tensor, Tensor], None] | None = None  # see `Packed.watch`

    @in_compute_dtype
    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Int[Tensor, "B _"] | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        position_ids: Int[Tensor, "_ T"] | None = None,
        noise: Noise | None = None,
        noise_seeds: Int[Tensor, " B"] | None = None,
        num_items_in_batch: Tensor | int | None = None,
        supervision_inputs: dict[str, Tensor] | None = None,
        latents: Tensor | None = None,
        latent_rms: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs a batch with `<|latent|>` placeholders in place; without any and without labels, the plain model.

        Args:
            input_ids: Any number of placeholders at any position of a row, but the first.
            attention_mask: (B, T) 1 at tokens, 0 at padding, left or right. With `past_key_values`: of all columns.
            labels: As in Transformers: position t is predicted from the position before it; -100 is ignored.
            position_ids: Default: a row's tokens are numbered from 0, padding not counted (the plain model, which
                numbers columns, where it runs).
            noise: Noise on the latents; needs `noise_seeds`.
            noise_seeds: One seed per row. The same seeds give the same noise, in any batch and on any process.
            supervision_inputs: What the supervision module reads. Without it the module is not run.
            latents: (B, L, d) noisy latents of earlier rollouts, to be taken as they are: one pass over all of them,
                which also gives their density under `noise` (`latent_logps`). Their rows need labels.
            latent_rms: (B, L) of `latents` before noise, as they were drawn; default: as they are now.

        Raises:
            ModelError: A row that is all padding or begins with a placeholder; noise without seeds.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        plain = "past_key_values" in kwargs or "inputs_embeds" in kwargs
        if input_ids is None or plain or (labels is None and self.latent_config.token_ids[1] not in input_ids):
            given: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            given |= {"position_ids": position_ids, "num_items_in_batch": num_items_in_batch, **kwargs}
            return super().forward(**{k: v for k, v in given.items() if v is not None})  # type: ignore[misc]
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if position_ids is None:
            position_ids = positions_of(attention_mask)
        position_ids = position_ids.expand(len(input_ids), -1)
        if latents is not None:
            if labels is None or noise is None:
                raise ModelError("Given latents need labels for their rows and the noise that they were drawn under.")
            taken = given_latents(self, input_ids, attention_mask, position_ids, latents, noise, latent_rms)
            output = self._loss(taken.states, input_ids, attention_mask, labels, num_items_in_batch, None)
            output.latent_logps, output.latent_rms = taken.logps, taken.rms
            return output
        if noise is not None and noise_seeds is None:
            raise ModelError("noise was given without noise_seeds. Give one integer seed per row.")
        needs_layers = supervision_inputs is not None and self.supervision is not None and self.supervision.needs_layers
        states = self._states(input_ids, attention_mask, position_ids, noise, noise_seeds, needs_layers)
        if labels is None:
            index = states.packed_column[..., None].expand(-1, -1, states.hidden.size(-1))
            return LatentOutput(logits=self._head(states.hidden.gather(1, index)), latents=states.latents)
        return self._loss(states, input_ids, attention_mask, labels, num_items_in_batch, supervision_inputs)

    def _states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        noise: Noise | None,
        seeds: Tensor | None,
        needs_layers: bool,
    ) -> States:
        """All passes over a batch."""
        self._check_rows(input_ids, attention_mask)
        is_latent = input_ids == self.latent_config.token_ids[1]
        counts = (is_latent & attention_mask.bool()).sum(1)
        num_latents = self._most_latents(counts)
        if num_latents == 0 or not THOUGHT_SOURCES[self.latent_config.thought_source].is_recurrent:
            output = self.base_model(  # type: ignore[attr-defined]
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                use_cache=False,
                output_hidden_states=needs_layers,
            )
            hidden = output.last_hidden_state
            columns = torch.arange(input_ids.size(1), device=input_ids.device).expand_as(input_ids)
            layers = output.hidden_states[1:] if needs_layers else ()
            return States(hidden, hidden.new_zeros(hidden.size(0), 0, hidden.size(2)), columns, layers)
        result, layout = self.run_latents(
            input_ids, attention_mask, position_ids, noise, seeds, num_latents, keep_layers=needs_layers
        )
        return States(result.hidden, result.latents, layout.packed_column, result.decoder.layers)

    @in_compute_dtype
    def run_latents(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        position_ids: Int[Tensor, "B T"],
        noise: Noise | None,
        seeds: Int[Tensor, " N"] | None,
        num_latents: int,
        rows: Int[Tensor, " N"] | None = None,
        spare: int = 0,
        may_stop: bool = False,
        keep_layers: bool = False,
        branch: Branch | None = None,
    ) -> tuple[PassResult, Layout]:
        """All passes over a batch, without the head.

        Args:
            num_latents: The most latents in any row; 0: placeholders are ordinary tokens.
            rows: (N,) row of each answer, where answers share their question. `seeds` and the result are over N rows.
            spare: Columns to keep free for tokens that follow.
            may_stop: Let the stop head, where there is one, end a thought before its last placeholder.
            keep_layers: Keep the hidden states of all layers in the last pass.
            branch: Says which rows go on before each latent, and draws for `noise`; see `Packed`.
        """
        config = self.latent_config
        is_latent = (input_ids == config.token_ids[1]) & attention_mask.bool()
        sweeps = min(config.jacobi_sweeps or 0, num_latents)  # as many as latents are exact; more change nothing
        if num_latents == 0:
            is_latent = torch.zeros_like(is_latent)
        if sweeps:
            layout = plan_sweeps(is_latent, attention_mask)
        else:
            layout = plan_passes(is_latent, attention_mask, num_latents)
        embeds = self.get_input_embeddings()(input_ids.gather(1, layout.source))  # type: ignore[attr-defined]
        epsilon = None
        if noise is not None and num_latents and branch is None:
            assert seeds is not None
            counts = layout.counts if rows is None else layout.counts[rows]
            epsilon = noise.sample_batch(seeds, counts, noise.width(self)).to(input_ids.device)
            if epsilon.size(1) == 0:  # the latents are all in the rows of other ranks, and all ranks do the same
                epsilon = epsilon.new_zeros(len(epsilon), num_latents, epsilon.size(2))
        stop = self._is_complete if may_stop and self.stop_head is not None else None
        positions = position_ids.gather(1, layout.source)
        shift = noise.value_shift(self) if noise is not None and num_latents else None
        packed = Packed(
            layout, embeds, positions, epsilon, rows, spare, stop, keep_layers, shift, self.latent_watch, branch
        )

        def think(hidden: Tensor, epsilon: Tensor | None) -> Tensor:
            thought = self.thought_source(hidden, self)
            return thought.latent if noise is None or epsilon is None else noise.apply(thought, epsilon)

        if sweeps:
            return run_sweeps(self.base_model, think, packed, sweeps, config.backprop_steps), layout  # type: ignore[attr-defined]
        return run_passes(self.base_model, think, packed, config.backprop_steps), layout  # type: ignore[attr-defined]

    def _is_complete(self, hidden: Tensor) -> Tensor:
        """Which thoughts (B,) end after the state (B, d) of their latest latent."""
        assert self.stop_head is not None
        return self.stop_head(hidden).squeeze(-1) > 0

    def _loss(
        self,
        states: States,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None,
        supervision_inputs: dict[str, Tensor] | None,
    ) -> LatentOutput:
        """Cross-entropy at the supervised positions, where alone logits are computed, and the losses of our modules."""
        hidden, packed_column, config = states.hidden, states.packed_column, self.latent_config
        rows, columns = (labels[:, 1:] != IGNORE).nonzero(as_tuple=True)
        target = labels[rows, columns + 1]  # (N,)
        logits = self._head(hidden[rows, packed_column[rows, columns]])  # (N, V)
        losses = F.cross_entropy(precise(logits), target, reduction="none")  # (N,)
        on_latent = input_ids[rows, columns + 1] == config.token_ids[1]
        total = (losses * torch.where(on_latent, config.supervision_weight, 1.0)).sum()
        detached = losses.detach()
        output = LatentOutput(
            logits=logits,
            latents=states.latents,
            token_loss=(detached * ~on_latent).sum() / (~on_latent).sum().clamp_min(1),
            latent_loss=(detached * on_latent).sum() / on_latent.sum().clamp_min(1),
        )
        if self.supervision is not None and supervision_inputs is not None:
            added = self.supervision(self, states, supervision_inputs)
            total = total + config.supervision_weight * added
            output.latent_loss = added.detach() / max(len(target), 1)
        if self.value_head is not None:
            index = packed_column[..., None].expand(-1, -1, hidden.size(-1))
            output.state_values = self.value_head(hidden.gather(1, index))
        if self.stop_head is not None:
            stop_losses = self._stop_losses(states, input_ids, attention_mask)
            total = total + stop_losses.sum()
            output.stop_loss = stop_losses.detach().sum() / max(len(stop_losses), 1)
        output.loss = total / (max(len(target), 1) if num_items_in_batch is None else num_items_in_batch)
        return output

    def _stop_losses(self, states: States, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Binary cross-entropy (N,) of the stop head at each latent: the thought is complete at its last one."""
        assert self.stop_head is not None
        is_latent = (input_ids == self.latent_config.token_ids[1]) & attention_mask.bool()
        rows, columns = is_latent.nonzero(as_tuple=True)
        is_last = ~F.pad(is_latent, (0, 1))[rows, columns + 1]
        logits = self.stop_head(states.hidden[rows, states.packed_column[rows, columns]]).squeeze(-1)
        return F.binary_cross_entropy_with_logits(precise(logits), is_last.to(precise(logits)), reduction="none")

    def _head(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, scaled and capped as models do that scale (Cohere, Granite) or cap (Gemma 2)."""
        logits = self.get_output_embeddings()(hidden)  # type: ignore[attr-defined]
        config = self.config.get_text_config()  # type: ignore[attr-defined]
        for name in ("logit_scale", "lm_head_multiplier"):
            logits = logits * getattr(config, name, 1.0)
        logits = logits / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _most_latents(self, counts: Tensor) -> int:
        """Latents of the longest row; under ZeRO-3, where all ranks gather weights together, of all ranks' rows."""
        most = counts.max()
        if is_deepspeed_zero3_enabled() and dist.is_initialized():
            most = most.clone()
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    def _check_rows(self, input_ids: Tensor, attention_mask: Tensor) -> None:
        mask = attention_mask.bool()
        empty = ~mask.any(1)
        first = mask.int().argmax(1, keepdim=True)
        starts_latent = input_ids.gather(1, first).squeeze(1) == self.latent_config.token_ids[1]
        if bool((empty | starts_latent).any()):
            row = int((empty | starts_latent).int().argmax())
            what = "is all padding" if empty[row] else "begins with a <|latent|> placeholder"
            raise ModelError(f"Row {row} of the batch {what}. A latent needs a token before it to be made from.")
        limit = context_window(self.config.get_text_config())  # type: ignore[attr-defined]
        longest = int(mask.sum(1).max())
        if limit is not None and longest > limit:
            raise ModelError(
                f"A row has {longest} tokens and latents, the model's context window is {limit}. "
                "Shorten the questions or lower the number of latents."
            )

    def set_latent_config(self, **changes: Any) -> None:
        """Changes fields of the latent section, in memory and in what `save_pretrained` will write."""
        self.latent_config = replace(self.latent_config, **changes)
        self.config.latent = self.latent_config.to_dict()  # type: ignore[attr-defined]
