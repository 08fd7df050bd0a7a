"""GRPO on latents, a thin subclass of TRL's GRPOTrainer.

A rollout is a question, its latents under sampled noise, and a sampled answer. What changes against TRL: how a rollout
is sampled, how its log-probs are recomputed (`estimators`), and what a group of rollouts is worth (`groups`). Losses,
clipping, rewards, reference model and logging are TRL's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation

from ...latent.batch import Given
from ...latent.geometry import cosine_sums
from ...latent.latentize import latentize
from ...latent.noise.values import share_bases
from ...latent.sampling.generate import SamplingParams, generate
from ...model.reasoner import Reasoner
from ..common import inner_model
from .estimators import Rollout, draw_seeds, max_at_k_advantages, thought_advantages
from .groups import RESAMPLES, equal_groups, fill_unscored, mixed_share, replace_rows
from .replay import answer_labels, answer_logps
from .watch import LatentGradients, averaged, ratio_metrics, replay_gap, reward_metrics, thought_metrics


class LatentGRPOTrainer(GRPOTrainer):
    """GRPO whose rollouts think in latents before they answer."""

    def __init__(self, reasoner: Reasoner, settings: Rollout, **kwargs: Any) -> None:
        self.reasoner, self.settings, self.noise = reasoner, settings, settings.noise
        self._logps: Tensor | None = None  # of the latest replay, (B, A)
        self._state_values: Tensor | None = None  # of the latest forward, (B, T), where there is a value head
        self._batch: dict[str, Any] = {}  # of the rollouts in hand: noise_seeds (B,), and what `score` needs
        self._is_score = False  # which part of the loss is being computed
        self._gradients = LatentGradients()
        super().__init__(model=reasoner.model, processing_class=reasoner.tokenizer, **kwargs)
        reasoner.model.latent_watch = self._gradients
        self.aux_loss_enabled = False  # the replay does not return the load-balancing loss of mixtures of experts
        if self.ref_model is not None:
            # TRL loads the reference as a plain model and gives it a forward of its own.
            reference = self.accelerator.unwrap_model(self.ref_model)
            reference.__dict__.pop("forward", None)
            latentize(reference, reasoner.config)
            reference.thought_source.load_state_dict(reasoner.model.thought_source.state_dict())

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # Each prompt comes num_generations times.
        ids = {prompt: self.reasoner.prompt_ids(prompt) for prompt in dict.fromkeys(prompts)}
        return [ids[prompt] for prompt in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list, list]:
        """Samples latents and answers; equal prompts share their prefill, answers of one seed their thought."""
        unique: dict[tuple[int, ...], int] = {}
        rows = torch.tensor([unique.setdefault(tuple(ids), len(unique)) for ids in prompt_ids])
        seeds = draw_seeds(len(prompt_ids), self.settings.answers_per_thought, self.settings.antithetic)
        sampling = SamplingParams(
            self.temperature, self.max_completion_length, self.top_k or 0, self.top_p or 1.0, self.min_p
        )
        with unwrap_model_for_generation(
            self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
        ) as model:
            policy = inner_model(model)
            if self.noise is not None:
                self.noise.prepare(policy)
            drawn = generate(
                policy, [list(ids) for ids in unique], rows, seeds, sampling, self.noise, self.eos_token_ids
            )
        if self.ref_model is not None:
            share_bases(policy, self.accelerator.unwrap_model(self.ref_model))
        self._batch = {"noise_seeds": seeds.to(self.accelerator.device)}
        if self.settings.estimator.scores:
            self._batch["latents"] = drawn.latents.float()
        self._observe(thought_metrics(drawn, rows, self.reasoner.config.embedding_rms))
        if self.noise is not None and self.noise.value_shift(policy) is None and drawn.latents.size(1):
            # Over all processes, of which one may hold a single rollout of each question.
            cosine, pairs = self.accelerator.reduce(cosine_sums(drawn.latents, rows), "sum").tolist()
            self._metrics["train"]["latent/cosine"].append(cosine / max(pairs, 1))
        logprobs = [row[: len(ids)] for row, ids in zip(drawn.logprobs.tolist(), drawn.token_ids, strict=True)]
        return drawn.token_ids, logprobs

    def _calculate_rewards(self, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(inputs, *args, **kwargs)  # (rollouts of all processes, functions)
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        self._rewards, self._scored = fill_unscored(
            total.view(-1, self.num_generations), ~rewards.isnan().all(1).view(-1, self.num_generations)
        )
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = self._draw(inputs)
        if self.settings.equal_groups == "resample":
            for _ in range(RESAMPLES):
                equal = equal_groups(self._rewards)
                if not equal.any():
                    break
                kept, scored = self._rewards, self._scored
                again = self._draw(inputs)
                self._rewards = torch.where(equal[:, None], self._rewards, kept)
                self._scored = torch.where(equal[:, None], self._scored, scored)
                output = replace_rows(
                    output, again, self._mine(equal[:, None].expand_as(kept)), self._tokenizer.pad_token_id
                )
                total = output["completion_mask"].sum()
                output["num_items_in_batch"] = self.accelerator.gather(total).sum()
        for name, value in reward_metrics(self._rewards, self._scored, self.settings.answers_per_thought).items():
            self._metrics["train"][name].append(value)  # of all processes already
        if self.settings.equal_groups == "drop":
            for name in ("advantages", "latent_advantages"):
                if name in output:
                    output[name] = output[name] / mixed_share(self._rewards)
        return output

    def _observe(self, metrics: dict[str, float]) -> None:
        """Keeps what this process measured for the next log, averaged over all."""
        for name, value in averaged(self.accelerator, metrics).items():
            self._metrics["train"][name].append(value)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._observe(self._gradients.take())
        super().log(logs, start_time)

    def _mine(self, values: Tensor) -> Tensor:
        """The rows of this process among the rollouts (P, G) of all."""
        flat = values.flatten()
        count = len(flat) // self.accelerator.num_processes
        return flat[self.accelerator.process_index * count :][:count]

    def _draw(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Rollouts with their advantages, as TRL shuffles, splits and buffers them."""
        output = super()._generate_and_score_completions(inputs)
        output |= self._batch
        if self.settings.max_at is not None:
            advantages = max_at_k_advantages(self._rewards.double(), self.settings.max_at)
            output["advantages"] = self._mine(advantages * self._scored).to(output["advantages"].dtype)
        if self.settings.estimator.scores and self.settings.answers_per_thought > 1:
            advantages = thought_advantages(
                output["advantages"], self.num_generations, self.settings.answers_per_thought
            )
            output["latent_advantages"] = advantages[:, None].expand(-1, output["latents"].size(1)).contiguous()
        if "old_per_token_logps" in output:
            self._observe(replay_gap(output["old_per_token_logps"], output))
            if self.settings.estimator.scores:
                output["old_latent_logps"], output["latent_rms"] = self._old_densities(output)
        return output

    @torch.no_grad()
    def _old_densities(self, output: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Weighted log-densities of latents and their RMS without noise (B, L), as of the weights that drew them."""
        ids = torch.cat([output["prompt_ids"], output["completion_ids"]], 1)
        mask = torch.cat([output["prompt_mask"], output["completion_mask"]], 1)
        found = []
        for part in torch.arange(len(ids)).split(self.args.per_device_train_batch_size):
            taken = self._forward(
                self.model, ids[part], mask[part], output["completion_ids"].size(1), output["latents"][part], None
            )
            found.append((taken.latent_logps, taken.latent_rms))
        logps, rms = (torch.cat(values) for values in zip(*found, strict=True))
        return self.settings.estimator.weigh(logps, output["latents"].size(-1)), rms

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        loss: Any = 0.0
        for share, is_score in self.settings.estimator.parts():
            self._is_score = is_score
            self._batch = self._with_latents(inputs) if is_score else inputs
            loss = loss + share * super()._compute_loss(model, self._batch)
            if not is_score:
                self._observe(ratio_metrics(self._logps, inputs))
            elif self.beta != 0.0:
                self._undilute_kl(inputs)
        self._is_score = False
        return loss

    def _undilute_kl(self, inputs: dict[str, Any]) -> None:
        """Latents counted as tokens without KL in the mean that TRL has just kept: makes it one over tokens alone."""
        counts = torch.stack([part["completion_mask"].sum() for part in (self._batch, inputs)]).float()
        actions, tokens = self.accelerator.reduce(counts, "sum").tolist()
        self._metrics["train"]["kl"][-1] *= actions / max(tokens, 1.0)

    def _with_latents(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with the latents as actions behind the answer tokens, for which TRL computes ratios and a loss."""
        is_latent = self._latent_mask(inputs, inputs["latents"].size(1))
        room = (0, is_latent.size(1))
        extended = {
            **inputs,
            "completion_ids": F.pad(inputs["completion_ids"], room),
            "completion_mask": torch.cat([inputs["completion_mask"], is_latent], 1),
        }
        if "latent_advantages" in inputs:
            advantages, answers = inputs["advantages"], inputs["completion_ids"].size(1)
            if advantages.dim() == 1:
                advantages = advantages[:, None].expand(-1, answers)
            extended["advantages"] = torch.cat([advantages, inputs["latent_advantages"]], 1)
        if "old_per_token_logps" in inputs:
            extended["old_per_token_logps"] = torch.cat([inputs["old_per_token_logps"], inputs["old_latent_logps"]], 1)
        for name in ("ref_per_token_logps", "sampling_per_token_logps"):
            if name in inputs:
                extended[name] = F.pad(inputs[name], room)
        return extended

    def _latent_mask(self, inputs: dict[str, Any], count: int) -> Tensor:
        """Which of `count` latents (B, L) each rollout has; none where its answer is masked out."""
        ids, answers = inputs["prompt_ids"], inputs["completion_mask"]
        counts = (ids == self.reasoner.config.token_ids[1]).sum(1, keepdim=True) * answers.any(1, keepdim=True)
        return (torch.arange(count, device=ids.device)[None] < counts).to(answers)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        """Log-probs and entropies (B, A) of the answer tokens in nats, at the rollout temperature.

        For the score part the log-densities of the latents follow, (B, A + L), with the mean entropy of the tokens.
        """
        if self._is_score:
            logps, entropies = self._score(model, input_ids, attention_mask, logits_to_keep)
            return logps, entropies, None
        seeds = self._batch["noise_seeds"]
        assert len(seeds) == len(input_ids)
        size = batch_size or len(input_ids)
        found = [
            self._tokens(
                self._forward(
                    model,
                    input_ids[begin : begin + size],
                    attention_mask[begin : begin + size],
                    logits_to_keep,
                    None,
                    seeds[begin : begin + size],
                ).logits,
                input_ids[begin : begin + size],
                attention_mask[begin : begin + size],
                logits_to_keep,
            )
            for begin in range(0, len(input_ids), size)
        ]
        logps, entropies = (torch.cat(values) for values in zip(*found, strict=True))
        self._logps = logps.detach()
        return logps, entropies if compute_entropy else None, None

    def _score(self, model: Any, input_ids: Tensor, attention_mask: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        batch, latents = self._batch, self._batch["latents"]
        count = latents.size(1)
        answers = columns - count
        ids, mask = input_ids[:, :-count], attention_mask[:, :-count]
        taken = self._forward(model, ids, mask, answers, latents, None, batch.get("latent_rms"))
        logps, entropies = self._tokens(taken.logits, ids, mask, answers)
        densities = self.settings.estimator.weigh(taken.latent_logps, latents.size(-1))
        if "ref_per_token_logps" in batch:
            # The KL estimate of TRL is a ratio, which densities of many dimensions blow up. Equal to the policy's own,
            # they add neither value nor gradient: the KL is that of the answers.
            batch["ref_per_token_logps"][:, answers:] = densities.detach()
        mean = entropies.sum() / mask[:, -answers:].sum().clamp_min(1)
        return torch.cat([logps, densities], 1), torch.cat([entropies, mean.expand_as(densities)], 1)

    def _forward(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        columns: int,
        latents: Tensor | None,
        seeds: Tensor | None,
        latent_rms: Tensor | None = None,
    ) -> Any:
        """The model on rollouts (B, T) whose last columns are answers: latents made again, or as they are given."""
        labels = answer_labels(ids, mask, columns)
        output = model(
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
            noise=self.noise if latents is None else None,
            noise_seeds=seeds,
            given=Given(latents, self.noise, latent_rms) if latents is not None else None,
        )
        self._state_values = output.get("state_values")
        return output

    def _tokens(self, logits: Tensor, ids: Tensor, mask: Tensor, columns: int) -> tuple[Tensor, Tensor]:
        return answer_logps(logits, ids, mask, columns, self.temperature, self.reasoner.config.token_ids)
