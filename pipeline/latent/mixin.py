"""The reasoner: any Hugging Face causal language model whose `forward` also runs latents.

`latentize` gives a loaded model a subclass of its own class. It stays a `PreTrainedModel`: TRL, PEFT, DeepSpeed and
`save_pretrained` treat it as the model it is, and its weights open with plain `AutoModelForCausalLM`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from ..system.compat import is_sharded
from .batch import Batch, Draw, Given
from .config import LatentConfig, ModelError, context_window
from .engine.columns import Visibility
from .engine.layout import Layout, plan_parallel, plan_passes
from .engine.masks import whole_mask
from .engine.packed import (
    KEEP_NOTHING,
    NO_DRAWS,
    Between,
    Branch,
    Draws,
    Keep,
    Packed,
    PassResult,
    Stop,
    Think,
    Watch,
    shared_questions,
)
from .engine.parallel import Refinement, run_parallel
from .engine.passes import run_passes
from .engine.precision import in_compute_dtype
from .label_scores import Score
from .loss import in_batch_order, loss_over_latents, scores_over_latents
from .noise import Noise
from .output import LatentOutput
from .sampling.given import split_states, take_given
from .stopping import stop_logits
from .supervision import States, Supervision
from .thoughts import THOUGHT_SOURCES, ThoughtSource
from .value_head import ValueHead


class LatentMixin:
    """Adds latents to a `*ForCausalLM` class. See `latentize`."""

    latent_config: LatentConfig
    thought_source: ThoughtSource
    stop_head: nn.Linear | None
    supervision: Supervision | None
    value_head: ValueHead | None
    latent_watch: Watch | None = None

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
        given: Given | None = None,
        share_questions: bool = False,
        score: Score | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs a batch with `<|latent|>` placeholders in place, in one of four ways.

        - The plain model: without placeholders and labels, with `past_key_values` or `inputs_embeds`, or without ids.
        - `forward_given`: on latents that are given.
        - `forward_loss`: with labels.
        - `forward_logits`: for the rest.

        Args:
            input_ids: Any number of placeholders at any position of a row but the first.
            attention_mask: (B, T) 1 at tokens, 0 at padding, left or right. With `past_key_values`: of all columns.
            labels: As in Transformers: position t is predicted from the position before it; -100 is ignored.
            position_ids: Default: the tokens of a row are numbered from 0 and padding is not counted. The plain model
                numbers columns.
            noise: Noise on the latents; needs `noise_seeds`.
            noise_seeds: One seed per row. The same seeds give the same noise, in any batch and on any process.
            supervision_inputs: What the supervision module reads. Without it the module is not run.
            given: Latents of earlier rollouts to take as they are, in place of `noise`. Their rows need labels.
            share_questions: Run what comes before the first latent, or before the first label where there is none, once
                for all rows of the batch that begin alike. Needs labels. Same result and gradients.
            score: Ask for log-probs and entropies of the labels, and for no loss.

        Raises:
            ModelError: A row that is all padding or begins with a placeholder, noise without seeds, or given latents
                without labels.
        """
        kwargs = {key: value for key, value in kwargs.items() if value is not None}
        is_plain = "past_key_values" in kwargs or "inputs_embeds" in kwargs
        if input_ids is None or is_plain or (labels is None and self.latent_config.token_ids[1] not in input_ids):
            theirs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
            theirs |= {"position_ids": position_ids, "num_items_in_batch": num_items_in_batch, **kwargs}
            return super().forward(**{k: v for k, v in theirs.items() if v is not None})  # type: ignore[misc]
        batch = Batch.of(input_ids, attention_mask, self.latent_config.token_ids[1], position_ids)
        if given is not None:
            return self.forward_given(batch, labels, given, num_items_in_batch, share_questions, score)
        draw = Draw.of(noise, noise_seeds)
        if labels is None:
            return self.forward_logits(batch, draw)
        return self.forward_loss(batch, labels, draw, num_items_in_batch, supervision_inputs, share_questions, score)

    def forward_loss(
        self,
        batch: Batch,
        labels: Tensor,
        draw: Draw | None,
        num_items_in_batch: Tensor | int | None,
        supervision_inputs: dict[str, Tensor] | None,
        share_questions: bool = False,
        score: Score | None = None,
    ) -> LatentOutput:
        """Thinks, then computes the loss of the labels and of the supervision, or what `score` asks for."""
        needs_layers = supervision_inputs is not None and self.supervision is not None and self.supervision.needs_layers
        states = self._states(batch, draw, needs_layers, batch.after_question(labels) if share_questions else None)
        if score is not None:
            return scores_over_latents(self, states, batch, labels, score, supervision_inputs)
        return loss_over_latents(self, states, batch, labels, num_items_in_batch, supervision_inputs)

    def forward_logits(self, batch: Batch, draw: Draw | None) -> LatentOutput:
        """Thinks, then computes the logits (B, T, V) of all columns."""
        states = self._states(batch, draw, needs_layers=False)
        return LatentOutput(logits=self.head_logits(in_batch_order(states)), latents=states.latents)

    def forward_given(
        self,
        batch: Batch,
        labels: Tensor | None,
        given: Given,
        num_items_in_batch: Tensor | int | None,
        share_questions: bool = False,
        score: Score | None = None,
    ) -> LatentOutput:
        """One pass over latents that are given, with their density under the noise that they were drawn under."""
        if labels is None:
            raise ModelError("Given latents need labels for their rows and the noise that they were drawn under.")
        taken = take_given(self, batch, given, batch.after_question(labels) if share_questions else None)
        if score is not None:
            output = scores_over_latents(self, taken.states, batch, labels, score, None)
        else:
            output = loss_over_latents(self, taken.states, batch, labels, num_items_in_batch, None)
        output.latent_logps, output.latent_rms = taken.logps, taken.rms
        return output

    def _states(self, batch: Batch, draw: Draw | None, needs_layers: bool, is_rest: Tensor | None = None) -> States:
        """Hidden states after all passes over a batch; one parallel pass where nothing is recurrent.

        Args:
            is_rest: (B, T) True after the question, where rows that begin alike share their question; None: they do
                not.
        """
        batch.check_rows(context_window(self.config.get_text_config()))  # type: ignore[attr-defined]
        num_latents = self._most_latents(batch.is_latent.sum(1))
        if num_latents == 0 or not THOUGHT_SOURCES[self.latent_config.thought_source].is_recurrent:
            visibility = self.visibility if num_latents else None
            if is_rest is not None and not needs_layers:
                embeds = self.get_input_embeddings()(batch.input_ids)  # type: ignore[attr-defined]
                return split_states(self.base_model, batch, embeds, is_rest, visibility)  # type: ignore[attr-defined]
            return self._parallel_states(batch, needs_layers, visibility)
        keep, share = Keep(layers=needs_layers), is_rest is not None
        result, layout = self.run_latents(batch, num_latents, draw, keep=keep, share_questions=share)
        return States(result.hidden, result.latents, layout.packed_column, result.decoder.layers)

    def _parallel_states(self, batch: Batch, needs_layers: bool, visibility: Visibility | None) -> States:
        """Hidden states where placeholders are ordinary tokens, which see no more than latents would."""
        trunk = self.base_model  # type: ignore[attr-defined]
        mask = whole_mask(trunk, batch.attention_mask, batch.is_latent, visibility, trunk.dtype)
        output = trunk(
            input_ids=batch.input_ids,
            attention_mask=mask,
            position_ids=batch.position_ids,
            use_cache=False,
            output_hidden_states=needs_layers,
        )
        hidden = output.last_hidden_state
        columns = torch.arange(hidden.size(1), device=hidden.device).expand(hidden.shape[:2])
        layers = output.hidden_states[1:] if needs_layers else ()
        return States(hidden, hidden.new_zeros(hidden.size(0), 0, hidden.size(2)), columns, layers)

    @in_compute_dtype
    def run_latents(
        self,
        batch: Batch,
        num_latents: int,
        draw: Draw | None = None,
        rows: Int[Tensor, " N"] | None = None,
        keep: Keep = KEEP_NOTHING,
        stop: Stop | None = None,
        branch: Branch | None = None,
        share_questions: bool = False,
    ) -> tuple[PassResult, Layout]:
        """All passes over a batch, without the head.

        Args:
            num_latents: The most latents in any row; 0: placeholders are ordinary tokens.
            draw: Noise on the latents. Its seeds are over N rows.
            rows: (N,) row of each answer, where answers share their question. The result is over N rows. Not with noise
                that moves the question.
            stop: Ends thoughts before their last placeholder: `is_complete`, or `StopDraws`.
            branch: Says which rows go on before each latent, and draws for the noise; see `Between`.
            share_questions: Rows that begin alike run their question once. Not with `rows`.
        """
        config = self.latent_config
        draw = draw if num_latents else None
        seeds = draw.seeds if draw is not None and draw.noise.moves_question else None
        is_latent = batch.is_latent if num_latents else torch.zeros_like(batch.is_latent)
        refinement = Refinement.of(config, num_latents)
        if refinement is not None:
            layout = plan_parallel(is_latent, batch.attention_mask)
        else:
            layout = plan_passes(is_latent, batch.attention_mask, num_latents)
        embeds = self.get_input_embeddings()(batch.input_ids.gather(1, layout.source))  # type: ignore[attr-defined]
        positions = batch.position_ids.gather(1, layout.source)
        pauses = None
        if self.visibility is not None and not THOUGHT_SOURCES[config.thought_source].is_recurrent:
            pauses = batch.is_latent.gather(1, layout.source) & layout.is_token
        shared = None
        if share_questions:
            pieces = 1 if refinement is None else 2
            shared = shared_questions(batch.input_ids, positions, layout, pieces, seeds)
        packed = Packed(layout, embeds, positions, rows, self.visibility, pauses, shared)
        think = self._think(draw.noise if draw is not None else None)
        counts = layout.counts if rows is None else layout.counts[rows]
        draws = self._draws(draw, counts, num_latents) if draw is not None else NO_DRAWS
        trunk = self.base_model  # type: ignore[attr-defined]
        if refinement is not None:
            result = run_parallel(
                trunk, think, packed, refinement, draws, keep, config.backprop_steps, self.latent_watch
            )
            return result, layout
        between = Between(stop, branch, self.latent_watch)
        return run_passes(trunk, think, packed, draws, between, keep, config.backprop_steps), layout

    @property
    def visibility(self) -> Visibility | None:
        """What latents and the text after them see of their row; None: all that is before them."""
        return Visibility.of(self.latent_config.window, self.latent_config.sees_question)

    def _think(self, noise: Noise | None) -> Think:
        """What makes latents of hidden states: the thought source, then the noise, then what is added."""

        def think(hidden: Tensor, epsilon: Tensor | None, embedding: Tensor | None) -> Tensor:
            thought = self.thought_source(hidden, self)
            if noise is not None and noise.on_input and embedding is not None:
                thought, embedding = thought._replace(latent=embedding + thought.latent), None
            z = thought.latent if noise is None or epsilon is None else noise.apply(thought, epsilon)
            return z if embedding is None else embedding + z

        return think

    def _draws(self, draw: Draw, counts: Tensor, num_latents: int) -> Draws:
        """The draws of rows with so many latents each (N,); without seeds the kind's value shift alone.

        Raises:
            ModelError: Seeds that are not one integer for each row.
        """
        noise, shift = draw.noise, draw.noise.value_shift(self)
        if draw.seeds is None:
            return Draws(None, shift)
        if draw.seeds.shape != counts.shape or draw.seeds.is_floating_point():
            raise ModelError(
                f"noise_seeds are {draw.seeds.dtype} of shape {tuple(draw.seeds.shape)} for {len(counts)} rows. "
                "Give one integer seed per row."
            )
        seeds = draw.seeds.to(counts.device)
        return Draws(noise.sample_batch(seeds, num_latents, noise.width(self), self.latent_config.loops), shift)

    def is_complete(self, hidden: Tensor, made: Tensor) -> Tensor:
        """Which thoughts (B,) end after the state (B, d) of their latest latent, by the likelier decision."""
        assert self.stop_head is not None
        return stop_logits(self.stop_head, hidden) > 0

    def head_logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, scaled and capped as models do that scale (Cohere, Granite) or cap (Gemma 2)."""
        logits = self.get_output_embeddings()(hidden)  # type: ignore[attr-defined]
        config = self.config.get_text_config()  # type: ignore[attr-defined]
        for name in ("logit_scale", "lm_head_multiplier"):
            logits = logits * getattr(config, name, 1.0)
        logits = logits / getattr(config, "logits_scaling", 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def _most_latents(self, counts: Tensor) -> int:
        """Latents of the longest row; where ZeRO-3 shards the weights, which ranks gather together, of all ranks."""
        most = counts.max()
        shards = is_deepspeed_zero3_enabled() and dist.is_initialized()
        if shards and any(map(is_sharded, self.parameters())):  # type: ignore[attr-defined]
            most = most.clone()
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most)

    def set_latent_config(self, **changes: Any) -> None:
        """Changes fields of the latent section, in memory and in what `save_pretrained` will write."""
        self.latent_config = replace(self.latent_config, **changes)
        self.config.latent = self.latent_config.to_dict()  # type: ignore[attr-defined]
