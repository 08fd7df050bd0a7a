"""Stage 3: GRPO on latents, a thin subclass of TRL's GRPOTrainer.

A rollout is a question, its latents under sampled noise, and a sampled answer. The `replay` estimator treats
(noise, answer tokens) as the action. The density of the noise does not depend on the weights, so the importance ratio
is that of the answer tokens alone, under the same noise:

    rho_t = pi_theta(o_t | x, epsilon, o_<t) / pi_old(o_t | x, epsilon, o_<t)

Latents are recomputed under the current weights with gradient through the recurrence. On-policy this is unbiased.
What changes against TRL: how a rollout is sampled, and how its log-probs are recomputed. Losses, clipping, advantages,
rewards, reference model and logging are TRL's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer
from trl.models import unwrap_model_for_generation

from ...data.errors import DataError
from ...data.problem import Problem
from ...rewards.checking import checked
from ...rewards.loading import load_reward
from ..latent.generate import Sampling, rollout
from ..latent.latentize import latentize
from ..latent.noise import Noise, parse_noise
from ..latent.thoughts import suppress
from ..latent.value_noise import share_bases
from ..loading import load_reasoner
from ..reasoner import Reasoner
from ..recipe import RecipeError
from ..sections import Recipe
from ..tracking import TrackingCallback
from .common import (
    Context,
    ProgressCallback,
    inner_model,
    lora_config,
    train_and_hand_over,
    trainer_config,
)

TRL_COLUMNS = {
    "prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric",
    "image", "images", "environment",
}  # fmt: skip


class LatentGRPOTrainer(GRPOTrainer):
    """GRPO whose rollouts think in latents before they answer."""

    def __init__(self, reasoner: Reasoner, noise: Noise | None, **kwargs: Any) -> None:
        self.reasoner, self.noise = reasoner, noise
        self._seeds: Tensor | None = None  # (B,) noise seeds of the rollouts in hand
        super().__init__(model=reasoner.model, processing_class=reasoner.tokenizer, **kwargs)
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
        """Samples latents and answers; equal prompts share their prefill."""
        unique: dict[tuple[int, ...], int] = {}
        rows = torch.tensor([unique.setdefault(tuple(ids), len(unique)) for ids in prompt_ids])
        self._seeds = torch.randint(2**62, (len(prompt_ids),))
        sampling = Sampling(
            self.temperature, self.max_completion_length, self.top_k or 0, self.top_p or 1.0, self.min_p
        )
        with (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gather_deepspeed3_params=self.args.ds3_gather_for_generation
            ) as model,
            self.accelerator.autocast(),
        ):
            policy = inner_model(model)
            drawn = rollout(
                policy,
                [list(ids) for ids in unique],
                rows,
                self._seeds,
                sampling,
                self.noise,
                self.eos_token_ids,
            )
        if self.ref_model is not None:
            share_bases(policy, self.accelerator.unwrap_model(self.ref_model))
        logprobs = [row[: len(ids)] for row, ids in zip(drawn.logprobs.tolist(), drawn.token_ids, strict=True)]
        self._seeds = self._seeds.to(self.accelerator.device)
        return drawn.token_ids, logprobs

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        output["noise_seeds"] = self._seeds  # TRL shuffles, splits and buffers it with the rest
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        self._seeds = inputs["noise_seeds"]
        return super()._compute_loss(model, inputs)

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
        """Replays rollouts: log-probs and entropies (B, A) of the answer tokens in nats, at the rollout temperature."""
        assert self._seeds is not None and len(self._seeds) == len(input_ids)
        size = batch_size or len(input_ids)
        logps, entropies = [], []
        for begin in range(0, len(input_ids), size):
            part = slice(begin, begin + size)
            logp, entropy = self._replay(
                model, input_ids[part], attention_mask[part], self._seeds[part], logits_to_keep
            )
            logps.append(logp)
            entropies.append(entropy)
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    def _replay(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, seeds: Tensor, answer_columns: int
    ) -> tuple[Tensor, Tensor]:
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        labels[:, :-answer_columns] = -100
        with self.accelerator.autocast():
            logits = model(
                input_ids=input_ids, attention_mask=attention_mask, labels=labels, noise=self.noise, noise_seeds=seeds
            ).logits
        scaled = suppress(logits.float(), self.reasoner.config.token_ids) / self.temperature
        distribution = scaled.log_softmax(-1)  # (N, V), N answer tokens in row-major order
        is_answer = labels[:, -answer_columns:] != -100  # (B, A)
        chosen = distribution.gather(1, labels[:, -answer_columns:][is_answer][:, None]).squeeze(1)
        entropy = -(distribution.exp() * distribution).sum(-1)
        empty = distribution.new_zeros(is_answer.shape)
        return empty.masked_scatter(is_answer, chosen), empty.masked_scatter(is_answer, entropy)


def rl_rows(problems: list[Problem], num_latents: int) -> list[dict[str, Any]]:
    """Rows of the RL dataset; all columns but `prompt` reach the reward functions.

    Raises:
        DataError: An extra column with a name that TRL keeps for itself.
    """
    extra = dict.fromkeys(name for problem in problems for name in problem.extra)
    taken = sorted(TRL_COLUMNS & extra.keys())
    if taken:
        raise DataError(f"The training data has columns {taken}, names that TRL keeps for itself. Rename them.")
    return [
        {
            **{name: problem.extra.get(name) for name in extra},
            "prompt": problem.question,
            "question": problem.question,
            "steps": list(problem.steps),
            "answer": problem.answer,
            "num_latents": num_latents,
        }
        for problem in problems
    ]


def grpo_args(recipe: Recipe, folder: Path) -> GRPOConfig:
    section = recipe.rl
    assert section is not None
    if section.trainer.get("temperature", 1.0) <= 0:
        raise RecipeError(
            f"rl.trainer.temperature={section.trainer['temperature']} must be above 0: the likelihood of a greedy "
            "answer has no gradient to learn from."
        )
    return trainer_config(
        GRPOConfig,
        "rl.trainer",
        section.trainer,
        recipe.seed,
        folder,
        disable_dropout=True,  # TRL samples rollouts in training mode
        reward_weights=[reward.weight for reward in section.rewards],
        trust_remote_code=recipe.model.trust_remote_code,
    )


def train_grpo(context: Context, base: str | Path, folder: Path) -> None:
    """Trains on the rewards of sampled answers and leaves `folder/final`."""
    section = context.recipe.rl
    assert section is not None
    rewards = [checked(load_reward(reward.function), reward.function) for reward in section.rewards]
    noise = parse_noise(section.noise)
    args = grpo_args(context.recipe, folder)
    model = context.recipe.model
    reasoner = load_reasoner(
        base,
        trust_remote_code=model.trust_remote_code,
        dtype=model.dtype,
        noise=str(noise) if noise else None,
        supervision="none",  # its module is left behind here, and the checkpoint must not promise it
        supervision_options={},
    )
    if reasoner.config.stop_head:
        raise RecipeError(
            f"rl replays a fixed number of latents, and {base} was trained to stop by itself (stop_head)."
        )
    latents = reasoner.config.num_latents
    if args.beta > 0 and latents == 0 and str(base) == model.name_or_path and model.lora is None:
        raise RecipeError(
            "rl.trainer.beta > 0 needs a reference model with the latent tokens, and TRL loads it from "
            f"{base}. Train sft or curriculum first, or set beta to 0."
        )
    trainer = LatentGRPOTrainer(
        reasoner,
        noise,
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_list(rl_rows(context.train, reasoner.config.num_latents)),
        peft_config=lora_config(context.recipe, reasoner),
        callbacks=[TrackingCallback(context.tracker), ProgressCallback("rl")],
    )
    train_and_hand_over(trainer, context, reasoner, base, folder)
