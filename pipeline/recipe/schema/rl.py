"""Keys of the section rl, and a reward as all sections name it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import HomePath, Section

VALUE_MATRICES = "value_matrices"


class Reward(Section):
    """A reward function or a reward model (give one of the two), its weight, and what happens when it is slow or fails.

    rl.rewards is a list of these; evaluate.selection_reward is one.
    """

    function: HomePath | None = Field(None, description="module:function, path/to/file.py:function or a built-in name")
    model: HomePath | None = Field(None, description="a sequence classifier: hub id or folder")
    label: int | None = Field(None, ge=0, description="the model's label whose probability counts; None: its only one")
    weight: float = Field(1.0, ge=-1e6, le=1e6, allow_inf_nan=False, description="factor in the sum of rewards")
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False, description="seconds for one try; None: any")
    retries: int = Field(0, ge=0, description="tries after the first that raised or took too long")
    on_error: Literal["raise", "none"] = Field(
        "raise", description="after the last try: end the training, or give no reward to the completions of the call"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Reward:
        if (self.function is None) == (self.model is None):
            raise ValueError("give exactly one of function (a reward function) and model (hub id or folder)")
        if self.label is not None and self.model is None:
            raise ValueError("label chooses an output of a reward model; remove it, or give model in place of function")
        return self


class PPOSection(Section):
    """What PPO adds to the section rl."""

    gamma: float = Field(1.0, ge=0, le=1, description="discount for each latent and each answer token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the generalized advantage estimates")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    cliprange_value: float = Field(0.2, gt=0, description="clip range of a value's change in the value loss")
    whiten_advantages: bool = Field(True, description="advantages get mean 0 and variance 1 over all processes")
    detach_trunk: bool = Field(True, description="the value loss trains the value head only")
    kl_target: float | None = Field(
        None, gt=0, description="KL in nats a token that trainer.beta is steered to; None: beta is fixed"
    )


class RLSection(Section):
    """The stage rl: reinforcement learning on the rewards of sampled answers, with noise on the latents."""

    algorithm: Literal["grpo", "ppo"] = Field("grpo", description="advantages from groups, or from a value head")
    ppo: PPOSection | None = Field(None, description="only with algorithm=ppo; None: its defaults")
    noise: str | None = Field("gaussian:0.1", description="noise on the latents as kind:scale; None: none")
    estimator: str = Field(
        "replay",
        description="how latents get a gradient: replay, score_function, score_function_rsqrt_d, score_function_mean, "
        "or mix:a",
    )
    trainable: list[str] | Literal["value_matrices"] | None = Field(
        None,
        description="regular expressions of the names of weights that RL trains, or value_matrices: those of all "
        "layers alone; None: all",
    )
    answers_per_thought: int = Field(1, gt=0, description="answers after each thought; num_generations counts answers")
    antithetic: bool = Field(False, description="thoughts come in pairs with opposite noise")
    max_at: int | None = Field(
        None, gt=0, description="reward what a rollout adds to the best of this many rollouts; None: its own reward"
    )
    equal_groups: Literal["keep", "drop", "resample"] = Field(
        "keep", description="groups of equal rewards: keep, leave out of the mean, or draw again"
    )
    rollout_batch_tokens: int | None = Field(
        None,
        gt=0,
        description="most tokens (question, latents, answer) held at once of all rollouts a process draws; None: by "
        "free memory",
    )
    step_tokens_weight: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of the labels that curriculum.supervision=step_tokens put on latents; 0: RL has none",
    )
    eval_every: int | None = Field(
        None, gt=0, description="optimizer steps between two measurements on held-out problems; None: none"
    )
    eval_problems: int = Field(256, gt=0, description="held-out problems of a measurement")
    alarms: Literal["warn", "stop"] = Field("warn", description="what an alarm does, see docs/metrics.md")
    rewards: list[Reward] = Field(
        default_factory=lambda: [Reward(function="exact_match")], min_length=1, description="summed with their weights"
    )
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.GRPOConfig")

    @field_validator("trainable", mode="before")
    @classmethod
    def _names_weights(cls, value: Any) -> Any:
        if value is None or value == VALUE_MATRICES:
            return value
        if not (isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)):
            raise ValueError(
                f"{value!r} names no weights: give a list of regular expressions, such as [v_proj], or {VALUE_MATRICES}"
            )
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> RLSection:
        if self.ppo is not None and self.algorithm != "ppo":
            raise ValueError("ppo holds keys of PPO, but algorithm is grpo; set algorithm=ppo or remove them")
        if self.trainer.get("importance_sampling_level") == "sequence":
            self._fits_a_ratio_of_sequences()
        if self.algorithm == "ppo":
            for key, default in (("max_at", None), ("equal_groups", "keep")):
                if getattr(self, key) != default:
                    raise ValueError(f"{key} compares the rollouts of a group, which PPO does not; remove it")
            if self.ppo is not None and self.ppo.kl_target is not None and not self.trainer.get("beta"):
                raise ValueError("ppo.kl_target steers trainer.beta, which must begin above 0")
        return self

    def _fits_a_ratio_of_sequences(self) -> None:
        level = "trainer.importance_sampling_level=sequence"
        if self.algorithm == "ppo":
            raise ValueError(
                f"{level} gives all tokens of an answer one ratio, and PPO an advantage to each: their gradients would "
                "get the mean of the advantages, and what the critic says of single tokens be lost; remove it"
            )
        if self.trainer.get("top_entropy_quantile") not in (None, 1, 1.0):
            raise ValueError(
                f"trainer.top_entropy_quantile picks tokens, and a ratio of the whole sequence moves them all; set one "
                f"of the two, or remove {level}"
            )
