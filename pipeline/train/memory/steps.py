"""The training step of each stage of a recipe, on a model without weights and the longest rows of its data.

The forward is that of the stage. Of the Trainer's own work on a few numbers a token nothing is run.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from ...latent.batch import Draw, Given
from ...latent.config import LatentConfig
from ...latent.noise import parse_noise
from ...latent.sampling.generate import pad_left
from ...latent.value_head import add_value_head
from ...problems.collate import Collator
from ...problems.format import Format
from ...problems.schedule import TEXT, Level
from ...recipe.schema import PPOSection, Recipe
from ...system.compat import FakeTensorMode
from ..curriculum.arm_plan import ArmPlan
from ..curriculum.arms import LATENT
from ..curriculum.visit import level_arguments, level_options
from ..lora import inner_model
from ..rl.estimators import density_logps, replayed_logps
from ..rl.logps import Answers
from ..rl.settings import grpo_args, rollout_settings
from ..rl.trainable import train_only
from ..sft import read_labels_alone, sft_args
from .inputs import Inputs, longest_prompts
from .ledger import without_data
from .weightless import as_trained, weightless


@dataclass(frozen=True)
class Step:
    """A training step without data.

    Attributes:
        name: Of the stage, with its level where it has several.
        model: As the Trainer has it, without data.
        mode: Of its tensors, see `without_data`.
        loss: Runs the forward of a micro-batch.
        longest: Tokens and latents of the longest row.
        has_reference: A second model like it is held without gradients.
    """

    name: str
    model: Any
    mode: FakeTensorMode
    args: TrainingArguments
    loss: Callable[[], Tensor]
    rows: int
    longest: int
    has_reference: bool = False


def sft_step(inputs: Inputs) -> Step:
    """A step of the stage sft."""
    recipe = inputs.recipe
    args = sft_args(recipe, recipe.folder / "sft")
    section = inputs.section()
    model = as_trained(weightless(recipe, inputs.config, section), recipe, args, None)
    mode = without_data(model)
    inner = inner_model(model)
    add_fused_lm_head(inner, outputs=("log_probs", "entropy", "is_top1"))  # as SFTTrainer
    read_labels_alone(inner)
    batch = _longest(inputs, Format(section), TEXT, args)
    return Step("sft", model, mode, args, lambda: model(**batch, fused_lm_head=True).loss, *batch["input_ids"].shape)


def level_step(inputs: Inputs, plan: ArmPlan, level: Level) -> Step:
    """A step of a level of the curriculum or of a control."""
    recipe = inputs.recipe
    args = level_arguments(recipe, plan, level, recipe.folder / plan.name)
    section = inputs.section(**level_options(recipe, plan, level))
    model = as_trained(weightless(recipe, inputs.config, section, True), recipe, args, section.token_ids)
    mode = without_data(model)
    style = Format(section, plan.section.pad_latents, inputs.tokenizer.eos_token_id)
    batch = _longest(inputs, style, level, args)
    if plan.is_last(level) and plan.name == LATENT and (noise := parse_noise(plan.section.noise)) is not None:
        noise.prepare(inner_model(model))
        batch |= {"noise": noise, "noise_seeds": torch.arange(len(batch["input_ids"]))}
    name = "curriculum" if plan.name == LATENT else plan.name
    return Step(f"{name} {level.index}", model, mode, args, lambda: model(**batch).loss, *batch["input_ids"].shape)


def _longest(inputs: Inputs, style: Format, level: Level, args: TrainingArguments) -> dict[str, Any]:
    """A micro-batch of the problems whose rows are longest at a level, again and again where there are too few."""
    examples = [style.example(item, level) for item in inputs.encoded]
    examples.sort(key=lambda example: len(example["input_ids"]), reverse=True)
    count = args.per_device_train_batch_size
    return Collator(inputs.tokenizer.pad_token_id)((examples * -(-count // len(examples)))[:count])


def rl_step(inputs: Inputs, thinking: LatentConfig) -> Step:
    """An update of the stage rl, on answers that are as long as they may be.

    Args:
        thinking: The latent section that the stage before it left.
    """
    recipe = inputs.recipe
    rl = recipe.rl
    assert rl is not None
    args = deepcopy(grpo_args(recipe, recipe.folder / "rl"))
    section = replace(thinking, supervision="none", supervision_options={})
    model = weightless(recipe, inputs.config, section)
    if rl.algorithm == "ppo":
        add_value_head(model, (rl.ppo or PPOSection()).detach_trunk)
    model = as_trained(model, recipe, args, section.token_ids)
    if rl.trainable is not None:
        train_only(model, rl.trainable)
    if args.disable_dropout:
        disable_dropout_in_model(model)
    mode = without_data(model)
    answers = longest_rollouts(inputs, section, args)
    rows, longest = answers.ids.shape
    loss = _rl_loss(recipe, model, section, answers, args)
    has_reference = args.beta > 0 and recipe.model.lora is None
    return Step("rl, update", model, mode, args, loss, rows, longest, has_reference)


def longest_rollouts(inputs: Inputs, section: LatentConfig, args: Any) -> Answers:
    """The rollouts of a micro-batch: those of the longest questions, with answers as long as they may be."""
    prompts = longest_prompts(inputs, section)
    count, group = args.per_device_train_batch_size, args.num_generations
    rows = [prompts[row // group % len(prompts)] for row in range(count)]
    ids, mask = pad_left(rows, inputs.tokenizer.pad_token_id, torch.device("cpu"))
    answer = torch.full((count, args.max_completion_length), inputs.tokenizer.eos_token_id)
    return Answers(torch.cat([ids, answer], 1), torch.cat([mask, torch.ones_like(answer)], 1), answer.size(1))


def _rl_loss(recipe: Recipe, model: Any, section: LatentConfig, answers: Answers, args: Any) -> Callable[[], Tensor]:
    """The forward of an update, for all parts of the estimator. What TRL makes of the log-probs is a few numbers."""
    settings, inner = rollout_settings(recipe), inner_model(model)
    noise = settings.noise
    if noise is not None:
        noise.prepare(inner)
    seeds = torch.arange(len(answers.ids))

    def loss() -> Tensor:
        total = torch.zeros(())
        for _, latents_act in settings.estimator.parts():
            if latents_act:
                assert noise is not None
                latents = torch.zeros(len(seeds), section.num_latents, inner.config.get_text_config().hidden_size)
                given = Given(latents, noise)
                found = density_logps(model, settings.estimator, answers, given, args.temperature, section.token_ids)
            else:
                draw = Draw(noise, seeds) if noise is not None else None
                found = replayed_logps(model, answers, draw, args.temperature, section.token_ids)
            total = total + found.logps.sum()
            if found.state_values is not None:
                total = total + found.state_values.sum()
        return total

    return loss
