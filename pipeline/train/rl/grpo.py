"""GRPO on latents, a thin subclass of TRL's GRPOTrainer.

A rollout is a question, its latents under sampled noise, and a sampled answer. A stop head also draws how many latents
there are; its decisions are actions beside the answer tokens. What changes against TRL: how a rollout
is sampled, how its log-probs are recomputed (`estimators`), and what a group of rollouts is worth (`groups`,
`advantages`). Losses, clipping, rewards, reference model and logging are TRL's.

One optimizer step, by function:

1. TRL's `_prepare_inputs` calls `_generate_and_score_completions`, which draws a batch by `_draw`. TRL calls back
   `_tokenize_prompts`, `_generate_single_turn` (thoughts and answers), `_calculate_rewards`, and
   `_get_per_token_logps_and_entropies` for reference log-probs where it needs them. Where later steps update from the
   same rollouts, the log-probs of the weights that drew them are those of the sampler, until `_keep_old` has those of
   the first step.
2. TRL's `compute_loss` calls `_compute_loss`. For each part of the estimator it lets TRL compute its loss, which asks
   `_get_per_token_logps_and_entropies` for the log-probs of the actions: `replayed_logps` or `density_logps`, and
   those of the stop head.

`call_state.Work` holds what these hooks hand each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...latent.batch import Draw, Given
from ...latent.noise.values import share_bases
from ...latent.sampling.answers import Generated, SamplingParams
from ...latent.sampling.generate import generate
from ...model.reading import thought_texts
from ...model.reasoner import Reasoner
from ...system.compat import (
    asks_old_logps,
    latest_completions,
    logged_metric,
    replace_prompts,
    rollout_tokenizer,
    shuffling_by,
)
from ..clock import REST
from ..generation import generating
from .actions import latent_mask, shortened, stop_mask, with_actions
from .advantages import max_at_k_advantages, thought_advantages
from .call_state import Drawn, Work
from .estimators import drawn_densities
from .groups import (
    RESAMPLES,
    equal_groups,
    fill_unscored,
    mixed_share,
    replace_rows,
    shuffle_groups,
)
from .latent_trainer import LatentTrainer
from .logps import answers_of
from .metrics import answer_ratios, ratio_sd, replay_metrics, reward_metrics
from .rollouts import draw_seeds
from .rollouts_table import rollout_columns


class LatentGRPOTrainer(LatentTrainer):
    """GRPO whose rollouts think in latents before they answer.

    Attributes:
        asks_values: The model has a critic, which says what it expects while rollouts are drawn.
    """

    asks_values = False
    _drawn_at = -1  # the optimizer steps done when the latest rollouts were drawn

    # Drawing rollouts

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        with self.clock.part(REST), shuffling_by(shuffle_groups):
            return super()._prepare_inputs(generation_batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        drawn = self._draw(inputs)
        if drawn.thoughts is not None:
            self._show(drawn.rollouts, drawn.thoughts)
        if self.settings.equal_groups == "resample":
            drawn = self._resample(inputs, drawn)
        self.watched.add_all(reward_metrics(drawn.rewards, drawn.is_scored, self.settings.answers_per_thought))
        if self.settings.equal_groups == "drop":
            for name in ("advantages", "latent_advantages", "stop_advantages"):
                if name in drawn.rollouts:
                    drawn.rollouts[name] = drawn.rollouts[name] / mixed_share(drawn.rewards)
        return drawn.rollouts

    def _resample(self, inputs: list[dict[str, Any]], drawn: Drawn) -> Drawn:
        """Draws again where all rewards of a group are equal, and keeps the other groups."""
        for _ in range(RESAMPLES):
            equal = equal_groups(drawn.rewards)
            if not equal.any():
                break
            again = self._draw(inputs)
            rows = self._mine(equal[:, None].expand_as(drawn.rewards))
            rollouts = replace_rows(drawn.rollouts, again.rollouts, rows, rollout_tokenizer(self).pad_token_id)
            rollouts["num_items_in_batch"] = self.accelerator.gather(rollouts["completion_mask"].sum()).sum()
            drawn = Drawn(
                rollouts,
                torch.where(equal[:, None], again.rewards, drawn.rewards),
                torch.where(equal[:, None], again.is_scored, drawn.is_scored),
            )
        return drawn

    def _draw(self, inputs: list[dict[str, Any]]) -> Drawn:
        """Rollouts with their advantages."""
        self._drawn_at, is_reused = self.state.global_step, asks_old_logps(self)
        with self.working(Work(knows_old=is_reused)) as work:
            rollouts = super()._generate_and_score_completions(inputs)
        assert work.rewards is not None and work.is_scored is not None
        rollouts |= work.rollouts
        if self.step_labels is not None:
            labels = self.step_labels.rows([row["question"] for row in inputs])
            rollouts["slot_labels"] = labels.to(self.accelerator.device)
        if self.settings.max_at is not None:
            advantages = max_at_k_advantages(work.rewards.double(), self.settings.max_at)
            rollouts["advantages"] = self._mine(advantages * work.is_scored).to(rollouts["advantages"].dtype)
        if self.settings.answers_per_thought > 1:
            self._credit_thoughts(rollouts)
        if is_reused:
            rollouts["old_per_token_logps"] = rollouts["sampling_per_token_logps"]
            if self.decisions:
                rollouts["old_stop_logps"] = rollouts["stop_logps"]
            if self.settings.estimator.uses_density:
                self._add_old_densities(rollouts)
        return Drawn(rollouts, work.rewards, work.is_scored, work.values, work.thoughts)

    def _credit_thoughts(self, rollouts: dict[str, Any]) -> None:
        """Adds the advantages of what the answers of a thought share: its latents, and its decisions to stop."""
        advantages = thought_advantages(rollouts["advantages"], self.num_generations, self.settings.answers_per_thought)
        if self.settings.estimator.uses_density:
            rollouts["latent_advantages"] = advantages[:, None].expand(-1, rollouts["latents"].size(1)).contiguous()
        if self.decisions:
            rollouts["stop_advantages"] = advantages[:, None].expand(-1, self.decisions).contiguous()

    def _add_old_densities(self, rollouts: dict[str, Any]) -> None:
        """Adds the densities of latents, and their RMS before noise, under the weights that drew them."""
        assert self.noise is not None
        answers, given = answers_of(rollouts), Given(rollouts["latents"], self.noise)
        with self.replaying(answers, backward=False):
            rollouts["old_latent_logps"], rollouts["latent_rms"] = drawn_densities(
                self.model, self.settings.estimator, answers, given, self.args.per_device_train_batch_size
            )

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        # Each prompt comes num_generations times.
        ids = {prompt: self.reasoner.prompt_ids(prompt) for prompt in dict.fromkeys(prompts)}
        return [ids[prompt] for prompt in prompts], None, {}

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> tuple[list, list]:
        """Samples latents and answers. Equal prompts share their prefill, and answers of one seed their thought."""
        unique: dict[tuple[int, ...], int] = {}
        rows = torch.tensor([unique.setdefault(tuple(ids), len(unique)) for ids in prompt_ids])
        seeds = draw_seeds(len(prompt_ids), self.settings.answers_per_thought, self.settings.antithetic)
        drawn = self._think_and_answer([list(ids) for ids in unique], rows, seeds)
        device = self.accelerator.device
        self.work.rollouts |= {"noise_seeds": seeds.to(device), "questions": rows.to(device)}
        if self.settings.estimator.uses_density:
            self.work.rollouts["latents"] = drawn.latents.float()
        if drawn.latent_values is not None and drawn.token_values is not None:
            self.work.values = drawn.latent_values, drawn.token_values
        if self.decisions:
            self.work.num_latents = drawn.num_latents.tolist()
            self.work.rollouts["stop_logps"] = drawn.stop_logps
            latent_id = self.reasoner.config.token_ids[1]
            replace_prompts(prompt_ids, shortened(prompt_ids, self.work.num_latents, latent_id))
        logprobs = [row[: len(ids)] for row, ids in zip(drawn.logprobs.tolist(), drawn.token_ids, strict=True)]
        return drawn.token_ids, logprobs

    def _think_and_answer(self, prompts: list[list[int]], rows: Tensor, seeds: Tensor) -> Generated:
        """Samples rollouts (B,) with the present weights.

        Args:
            rows: (B,) prompt of each rollout.
        """
        sampling = SamplingParams(
            self.temperature, self.max_completion_length, self.top_k or 0, self.top_p or 1.0, self.min_p,
            draws_stops=self.decisions > 0, values=self.asks_values,
        )  # fmt: skip
        with self.clock.part("rollout"), generating(self) as policy:
            if self.noise is not None:
                self.noise.prepare(policy)
            # Processes may cut their rollouts into different numbers of parts: weights are gathered around all of them,
            # or in turn.
            drawn = generate(
                policy, prompts, rows, seeds, sampling, self.noise, self.eos_token_ids, self.settings.budget
            )
            if self.table is not None and self.table.begin_draw(self.state.global_step):
                self.work.thoughts = self._read(
                    policy, [prompts[row] for row in rows.tolist()[: self.table.shown]], seeds, drawn
                )
        if self.ref_model is not None:
            share_bases(policy, self.accelerator.unwrap_model(self.ref_model))
        self.watch_rollouts(policy, prompts, rows, drawn)
        return drawn

    def _read(self, policy: Any, prompts: list[list[int]], seeds: Tensor, drawn: Generated) -> list[str]:
        """What is read in the thoughts of the first rollouts, as many as there are prompts, as they were drawn."""
        if self.decisions:
            prompts = shortened(prompts, drawn.num_latents.tolist()[: len(prompts)], self.reasoner.config.token_ids[1])
        draw = Draw(self.noise, seeds[: len(prompts)]) if self.noise is not None else None
        return thought_texts(Reasoner(policy, self.reasoner.tokenizer), prompts, draw)

    def _show(self, rollouts: dict[str, Any], thoughts: list[str]) -> None:
        """Sends the table of rollouts, of the first on this process, and how numbers of all of them are distributed."""
        assert self.table is not None
        logs = latest_completions(self)
        numbers = {f"histogram/{name}": torch.tensor(values) for name, values in logs["rewards"].items()}
        advantages, mask = rollouts["advantages"], rollouts["completion_mask"]
        if advantages.dim() > 1:
            advantages = (advantages * mask).sum(1) / mask.sum(1).clamp_min(1)
        numbers["histogram/advantage"] = advantages
        if self._latents[0] is not None:
            norms = self._latents[0].norm(dim=2)
            numbers["histogram/latent_norm"] = norms[norms > 0]  # zero beyond a thought's end
        count = len(thoughts)
        seeds = rollouts["noise_seeds"].tolist()[:count]
        columns = rollout_columns(logs, thoughts, advantages.tolist()[:count], seeds)
        self.table.send(columns, numbers, self.state.global_step)

    def _calculate_rewards(self, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        if self.work.num_latents is not None:
            inputs = [{**row, "num_latents": n} for row, n in zip(inputs, self.work.num_latents, strict=True)]
        with self.clock.part("reward"):
            rewards = super()._calculate_rewards(inputs, *args, **kwargs)  # (rollouts of all processes, functions)
        total = (rewards * self.reward_weights.to(rewards.device)).nansum(1)
        self.work.rewards, self.work.is_scored = fill_unscored(
            total.view(-1, self.num_generations), ~rewards.isnan().all(1).view(-1, self.num_generations)
        )
        return rewards

    # Computing the loss

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        return self.policy_loss(model, inputs)[0]

    def policy_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """TRL's loss, summed over the parts of the estimator, and the state values (B, T) of the last forward.

        Until the weights move TRL takes the log-probs of this forward for the old ones, so that ratios are 1. They
        are kept for later inner steps in place of the sampler's, which in bfloat16 differ from them by more than a
        narrow clip range.
        """
        loss: Any = 0.0
        state_values = None
        draws = self.state.global_step == self._drawn_at  # the weights are those that drew
        given = {name: value for name, value in inputs.items() if not (draws and name == "old_per_token_logps")}
        for part, (share, latents_act) in enumerate(self.settings.estimator.parts()):
            rollouts = self._with_actions(given, latents_act)
            others = rollouts["completion_ids"].size(1) - inputs["completion_ids"].size(1)
            with self.working(Work(rollouts, latents_act, others)) as work:
                loss = loss + share * super()._compute_loss(model, rollouts)
            state_values = work.state_values
            assert work.logps is not None
            if draws and part == 0:
                self.watched.add_all(replay_metrics(work.logps, inputs, work.stop_logps))
                self._keep_old(inputs, work)
            if not latents_act:
                self.watched.add("ratio/sd", ratio_sd(work.logps, given))
                if self.table is not None and self.table.takes_ratios(inputs, self.state.global_step):
                    self.table.send_ratios(answer_ratios(work.logps, inputs), self.state.global_step)
                if work.supervision_loss is not None:
                    loss = loss + self._labelled(work.supervision_loss)
            if others and self.beta != 0.0:
                self._undilute_kl(rollouts, inputs)
        return loss, state_values

    def _keep_old(self, inputs: dict[str, Any], work: Work) -> None:
        """Keeps the log-probs of the weights that drew in TRL's batch, which comes again in later inner steps."""
        if "old_per_token_logps" in inputs:
            inputs["old_per_token_logps"] = work.logps
            if self.decisions:
                inputs["old_stop_logps"] = work.stop_logps

    def _with_actions(self, rollouts: dict[str, Any], latents_act: bool) -> dict[str, Any]:
        """TRL's batch with the actions that are no tokens behind those that are, as `Work.others` has them."""
        if latents_act:
            rollouts = with_actions(rollouts, self._latent_mask(rollouts, rollouts["latents"].size(1)), "latent")
        if self.decisions:
            config = self.reasoner.config
            rollouts = with_actions(rollouts, stop_mask(rollouts, config.token_ids[1], config.num_latents), "stop")
        return rollouts

    def _latent_mask(self, rollouts: dict[str, Any], most_latents: int) -> Tensor:
        return latent_mask(rollouts, self.reasoner.config.token_ids[1], most_latents)

    def _labelled(self, mean: Tensor) -> Tensor:
        """The weighted loss of the labels on latents, for one accumulated micro-batch."""
        assert self.step_labels is not None
        self.watched.add("thought/step_tokens_loss", mean)
        return self.step_labels.weight * mean / self.current_gradient_accumulation_steps

    def _undilute_kl(self, extended: dict[str, Any], inputs: dict[str, Any]) -> None:
        """Makes the mean KL that TRL has just logged one over tokens: other actions counted in it, without any KL."""
        counts = torch.stack([part["completion_mask"].sum() for part in (extended, inputs)]).float()
        actions, tokens = self.accelerator.reduce(counts, "sum").tolist()
        logged_metric(self, "kl")[-1] *= actions / max(tokens, 1.0)

    def _mine(self, values: Tensor) -> Tensor:
        """The rows of this process among the rollouts (P, G) of all."""
        flat = values.flatten()
        count = len(flat) // self.accelerator.num_processes
        return flat[self.accelerator.process_index * count :][:count]
