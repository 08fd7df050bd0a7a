"""Every key of a recipe: type, default and meaning. One class for each section, in the order of a recipe.

An unknown key is an error. A recipe is frozen once read. `Recipe`, at the end, names the sections.
"""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from ...data.gym import GymTask, Templates


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def expanded(path: str) -> str:
    """Replaces a leading `~` or `~user` by the home folder. Any other string is left as it is.

    Raises:
        ValueError: There is no such user, or the home folder is not known.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"{path!r} begins with a home folder that does not exist; write the path in full")
    return found


# A path, or a name that may be a path, such as a hub id or a reward function in a file.
HomePath = Annotated[str, AfterValidator(expanded)]


class QuantizationSection(Section):
    """The frozen base of a LoRA in few bits. The names are those of `transformers.BitsAndBytesConfig`."""

    bits: Literal[4, 8] = Field(description="of a weight of the linear layers, the head excepted: 4 or 8")
    quant_type: Literal["nf4", "fp4"] | None = Field(None, description="of 4 bits: nf4 (the default) or fp4")
    double_quant: bool | None = Field(None, description="of 4 bits: quantise the scales, too; true by default")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_4_bits(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("bits") == 4:
            given = {key: value for key, value in values.items() if value is not None}
            return {"quant_type": "nf4", "double_quant": True, **given}
        return values

    @model_validator(mode="after")
    def _of_4_bits(self) -> QuantizationSection:
        for key in ("quant_type", "double_quant"):
            if self.bits == 8 and getattr(self, key) is not None:
                raise ValueError(f"{key}={getattr(self, key)} is of 4 bits alone; remove it, or set bits: 4")
        return self


class ModelSection(Section):
    """The base model: a trained one by name_or_path, or an untrained one by config. Give one of the two."""

    name_or_path: HomePath | None = Field(None, description="hub id or folder of a trained model")
    gguf_file: str | None = Field(
        None, description="a GGUF file in name_or_path, whose weights are dequantised into base/final; needs gguf"
    )
    config: dict[str, Any] | None = Field(
        None, description="of an untrained model: model_type and fields of that Transformers config"
    )
    dtype: Literal["float32", "bfloat16", "auto"] = Field(
        "float32",
        description="what all stages and measurements compute in, over float32 weights; auto: what the model says",
    )
    trust_remote_code: bool = Field(False, description="run the code that comes with a model on the hub")
    attn_implementation: Literal["sdpa", "eager"] | None = Field(
        None, description="attention of Transformers, sdpa or eager; None: its default for the model"
    )
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; None: all weights are trained")
    quantization: QuantizationSection | None = Field(
        None, description="keep the frozen base of the LoRA in 4 or 8 bits (QLoRA); needs bitsandbytes"
    )

    @field_validator("dtype", mode="before")
    @classmethod
    def _trains(cls, value: Any) -> Any:
        if value not in ("float32", "bfloat16", "auto"):
            raise ValueError(
                f"{value!r} is nothing that stages train in: take float32, or bfloat16, which has float32's range, for "
                "matrix products in half precision over weights in float32, or auto for the one of the two that the "
                "model's config.json says"
            )
        return value

    @field_validator("attn_implementation", mode="before")
    @classmethod
    def _takes_masks(cls, value: Any) -> Any:
        if value not in ("sdpa", "eager", None):
            raise ValueError(
                f"{value!r} takes no mask of its own for each row, which latents need in batches of rows of different "
                "lengths: take sdpa, the fastest on a GPU, or eager"
            )
        return value

    @property
    def loading(self) -> dict[str, Any]:
        """Arguments of `load_reasoner` that hold for every checkpoint of a run."""
        return {**self.loading_in_full, "quantization": self.quantization}

    @property
    def loading_in_full(self) -> dict[str, Any]:
        """Those for a checkpoint that is written again: its weights must not have been quantised."""
        return self.model_dump(include={"trust_remote_code", "dtype", "attn_implementation"})

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.name_or_path is None) == (self.config is None):
            raise ValueError("give exactly one of name_or_path (hub id or folder) and config (to build a new model)")
        if self.gguf_file is not None and self.name_or_path is None:
            raise ValueError(f"gguf_file={self.gguf_file} is a file in name_or_path, which is missing")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example gpt2")
        return self

    @model_validator(mode="after")
    def _quantised_base(self) -> ModelSection:
        if self.quantization is None:
            return self
        if self.lora is None:
            raise ValueError("quantization needs lora: quantised weights cannot be trained, adapters over them can")
        if self.config is not None:
            raise ValueError(
                "quantization needs a trained model (name_or_path): config builds one that has yet to learn"
            )
        return self


class GymSection(Section):
    """A task of the library reasoning-gym. All keys but the name are of tasks with worked solutions: gsm_symbolic."""

    name: str = Field(description="the library's name of the task")
    min_steps: int = Field(
        GymTask.min_steps, ge=0, description="fewest steps of a problem; 0: also those whose solution gives no steps"
    )
    max_steps: int = Field(GymTask.max_steps, gt=0, description="most steps of a problem")
    max_step_chars: int = Field(GymTask.max_step_chars, gt=0, description="most characters of a step")
    templates: Templates | tuple[int, ...] = Field(
        "all", description="all; seen, to train on; unseen, the other fifth; or a list of their numbers"
    )


class DataSource(Section):
    """Where problems come from: a generated task, a local file, or a Hugging Face dataset. Give one of the four."""

    task: str | None = Field(None, description="a generated task: chain, prosqa or graph_path")
    reasoning_gym: GymSection | None = Field(None, description="a generated task of reasoning-gym, or its name alone")
    options: dict[str, Any] = Field(
        default_factory=dict, description="of the generated task: fields of its class in data/ or in reasoning-gym"
    )
    size: int | None = Field(None, gt=0, description="of the generated task: problems to generate")
    path: HomePath | None = Field(None, description="a JSONL, JSON, CSV or Parquet file")
    dataset: HomePath | None = Field(None, description="a Hugging Face dataset: hub id or folder")
    name: str | None = Field(None, description="configuration of the Hugging Face dataset")
    split: str = Field("train", description="split of the Hugging Face dataset, such as test or train[:100]")
    columns: dict[str, str | None] | None = Field(
        None, description="question, steps, answer -> the column that holds it; steps: null reads data without steps"
    )
    step_splitter: Literal["line", "sentence", "equations", "gsm8k", "svamp", "prosqa_symbolic"] | None = Field(
        None, description="how one string becomes steps, or a row of a known format a problem; None: by lines"
    )
    limit: int | None = Field(None, gt=0, description="rows to read of a file or dataset; None: all")
    streaming: bool = Field(False, description="of a dataset: fetch only its first rows, `limit` of them")

    @property
    def is_generated(self) -> bool:
        """Whether the problems come from a generated task."""
        return self.task is not None or self.reasoning_gym is not None

    @field_validator("reasoning_gym", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_origin(self) -> DataSource:
        if sum(origin is not None for origin in (self.task, self.reasoning_gym, self.path, self.dataset)) != 1:
            raise ValueError("give exactly one of task, reasoning_gym, path and dataset")
        if self.is_generated and self.size is None:
            raise ValueError("a generated task needs a size, the number of problems")
        if self.streaming and (self.dataset is None or self.limit is None):
            raise ValueError("streaming needs a dataset and a limit, the number of its first rows to fetch")
        return self


class DataSection(Section):
    """The problems of the run."""

    train: DataSource = Field(description="training problems; some are held out to measure on while training")
    eval: DataSource = Field(description="evaluation problems, which the run is measured on at its end")
    keep_overlap: bool = Field(
        False, description="train also on questions of eval; else they are left out of the training problems"
    )
    format: Literal["plain", "chat", "auto"] = Field(
        "plain", description="questions as lines, or as turns of the model's chat template; auto: chat for chat models"
    )
    system_prompt: str | None = Field(None, description="of format chat: the system turn before each question")
    answer_format: Literal["hash", "boxed", "sentence"] = Field(
        "hash", description="how answers are announced: ### 18, \\boxed{18}, or The answer is 18."
    )

    @model_validator(mode="after")
    def _system_prompt_of_a_chat(self) -> DataSection:
        if self.system_prompt is None:
            return self
        if self.format == "plain":
            raise ValueError(
                f"system_prompt {self.system_prompt[:60]!r} needs a chat template to stand in: set format: chat, or "
                "remove it"
            )
        if not self.system_prompt.strip():
            raise ValueError("system_prompt is empty; remove it for none")
        return self

    @property
    def text_options(self) -> dict[str, Any]:
        """Fields of `LatentConfig` that say how problems are written. Not while format is auto."""
        assert self.format != "auto"
        return {"format": self.format, "system_prompt": self.system_prompt, "answer_format": self.answer_format}


# The modes that make all latents at once -> the key with the number of their passes.
PASSES = {"jacobi": "jacobi_sweeps", "looped": "loops"}


class LatentSection(Section):
    """How latents are made, from the curriculum on."""

    thought_source: str = Field("norm_matched", description="what a latent is made of, see docs/algorithm.md")
    thought_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the thought source")
    latents_per_step: int | Literal["auto"] = Field(
        1, description="latents that replace one text step; auto: tokens of the longest step of the training problems"
    )
    max_latents_per_step: int = Field(32, gt=0, description="most latents of a step with latents_per_step=auto")
    max_latents: int | None = Field(None, gt=0, description="most latents of a thought; None: no limit")
    delimiters: bool = Field(False, description="special tokens around the latents")
    stop_head: bool = Field(False, description="a head ends the thought; the number of latents becomes a maximum")
    mode: Literal["sequential", "jacobi", "looped"] = Field(
        "sequential", description="latents one after the other, or all at once in Jacobi sweeps or in loops"
    )
    jacobi_sweeps: int | None = Field(None, gt=0, description="of mode jacobi: the number of sweeps")
    loops: int | Literal["blocks"] | None = Field(
        None, description="of mode looped: the number of loops; blocks: as many as the level has blocks of latents"
    )
    injection: Literal["add", "replace"] = Field(
        "add", description="of mode looped: a thought is added to the placeholder's embedding, or replaces it"
    )
    window: int | None = Field(
        None,
        gt=0,
        description="latents in sight of a latent, itself included, and of the text after; None: all; 1: a state",
    )
    sees_question: bool = Field(True, description="latents after the first, and the text after them, see the question")
    backprop_steps: int | None = Field(
        None, ge=0, description="only the last latents (sweeps, loops), this number of them, carry gradient; None: all"
    )

    @property
    def block_size(self) -> int:
        """`latents_per_step` as a number. While it is auto, before the problems are tokens, a block counts as one."""
        return 1 if self.latents_per_step == "auto" else self.latents_per_step

    @model_validator(mode="before")
    @classmethod
    def _mode_of_its_passes(cls, values: Any) -> Any:
        # Recipes up to version 0.2 have no mode: jacobi_sweeps alone said it.
        if isinstance(values, dict) and "mode" not in values:
            for mode, key in PASSES.items():
                if values.get(key) is not None:
                    return {**values, "mode": mode}
        return values

    @field_validator("latents_per_step")
    @classmethod
    def _some_latents(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError(f"{value} must be at least 1, or auto")
        return value

    @field_validator("loops")
    @classmethod
    def _loops_are_some(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value < 1:
            raise ValueError(
                f"{value} must be at least 1, or blocks; latents without a loop are pause tokens: thought_source=pause"
            )
        return value

    @model_validator(mode="after")
    def _passes_of_the_mode(self) -> LatentSection:
        for mode, key in PASSES.items():
            value = getattr(self, key)
            if mode == self.mode and value is None:
                raise ValueError(f"mode={mode} needs {key}, the number of its passes")
            if mode != self.mode and value is not None:
                raise ValueError(f"{key}={value} belongs to mode={mode}, but mode is {self.mode}; remove one of them")
        if self.injection != "add" and self.mode != "looped":
            raise ValueError(f"injection={self.injection} belongs to mode=looped, but mode is {self.mode}")
        return self

    @model_validator(mode="after")
    def _one_after_the_other(self) -> LatentSection:
        for name, is_set in (
            ("stop_head", self.stop_head),
            ("window", self.window is not None),
            ("sees_question=false", not self.sees_question),
        ):
            if is_set and self.mode != "sequential":
                raise ValueError(
                    f"{name} needs latents made one after the other, but mode is {self.mode}; remove {name} or "
                    f"{PASSES[self.mode]}"
                )
        return self

    @model_validator(mode="after")
    def _whole_steps(self) -> LatentSection:
        if self.max_latents is None or self.latents_per_step == "auto":
            return self
        if self.max_latents % self.latents_per_step:
            raise ValueError(
                f"max_latents={self.max_latents} must be a multiple of latents_per_step={self.latents_per_step}"
            )
        return self


class SFTSection(Section):
    """The stage sft: supervised fine-tuning on text chain of thought."""

    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.SFTConfig")


class CurriculumSection(Section):
    """The stage curriculum, and its controls: level by level, latents replace more text steps.

    A level ends at its threshold (promote_at), out of patience, or at its limit: trainer.max_steps or
    trainer.num_train_epochs.
    """

    preset: str | None = Field(None, description="a published schedule that fills in what the recipe leaves out")
    steps_per_level: int | list[int | Literal["all"]] = Field(
        1, description="text steps that each level replaces; a list: one number for each level, all at its end"
    )
    pad_latents: bool = Field(
        True, description="all problems of a level have its latents; false: latents for their own steps"
    )
    promote_at: float | None = Field(
        0.95, gt=0, le=1, description="greedy held-out accuracy that promotes a level and ends it; None: never"
    )
    last_level_at: float | None = Field(None, gt=0, le=1, description="promote_at of the last level; None: the same")
    patience: int | None = Field(
        None, gt=0, description="measurements in a row without a new best that end a level; None: never"
    )
    at_limit: Literal["stop", "continue"] = Field(
        "stop", description="what follows a level that ends below its threshold: no further level, or the next one"
    )
    step_back_at: float | None = Field(
        None, gt=0, le=1, description="below this accuracy on the level below, that level is trained again; None: never"
    )
    max_step_backs: int = Field(1, gt=0, description="how often a level may be trained again")
    eval_every: int = Field(100, gt=0, description="optimizer steps between two measurements")
    eval_problems: int = Field(256, gt=0, description="held-out problems of a measurement")
    mix_earlier: float = Field(0.0, ge=0, le=1, description="share of items shown at a random level up to this one")
    supervision: Literal["none", "next_step", "step_tokens", "decoder", "distillation"] = Field(
        "none", description="what latents are taught besides the answer, see docs/algorithm.md"
    )
    supervision_weight: float = Field(1.0, gt=0, description="weight of the supervision's loss")
    supervision_options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the supervision"
    )
    noise: str | None = Field(None, description="noise on the latents in the last level, as kind:scale")
    noise_ramp: float = Field(
        0.5, ge=0, le=1, description="share of the last level's limit over which the noise grows from 0"
    )
    reset_optimizer: bool = Field(True, description="each level begins with a fresh optimizer")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of transformers.TrainingArguments")
    last_level_trainer: dict[str, Any] = Field(default_factory=dict, description="fields that differ in the last level")

    @field_validator("steps_per_level", mode="before")
    @classmethod
    def _whole_schedule(cls, value: Any) -> Any:
        steps = value if isinstance(value, list) else [value]
        numbers = steps[:-1] if isinstance(value, list) and steps[-1:] == ["all"] else steps
        if not steps or not all(type(step) is int and step >= 1 for step in numbers):
            raise ValueError(
                f"{value!r} must be a number of at least 1, or a list of such numbers whose last entry may be all"
            )
        return value

    @model_validator(mode="after")
    def _measured(self) -> CurriculumSection:
        if self.step_back_at is not None and self.promote_at is None:
            raise ValueError("step_back_at needs promote_at, the threshold that is measured")
        return self


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
    answers_per_thought: int = Field(1, gt=0, description="answers after each thought; num_generations counts answers")
    antithetic: bool = Field(False, description="thoughts come in pairs with opposite noise")
    max_at: int | None = Field(
        None, gt=0, description="reward what a rollout adds to the best of this many rollouts; None: its own reward"
    )
    equal_groups: Literal["keep", "drop", "resample"] = Field(
        "keep", description="groups of equal rewards: keep, leave out of the mean, or draw again"
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

    @model_validator(mode="after")
    def _fits_the_algorithm(self) -> RLSection:
        if self.ppo is not None and self.algorithm != "ppo":
            raise ValueError("ppo holds keys of PPO, but algorithm is grpo; set algorithm=ppo or remove them")
        if self.algorithm == "ppo":
            for key, default in (("max_at", None), ("equal_groups", "keep")):
                if getattr(self, key) != default:
                    raise ValueError(f"{key} compares the rollouts of a group, which PPO does not; remove it")
            if self.ppo is not None and self.ppo.kl_target is not None and not self.trainer.get("beta"):
                raise ValueError("ppo.kl_target steers trainer.beta, which must begin above 0")
        return self


MonitorScore = Literal["distance", "valid", "logprob"]
Selector = Literal["majority", "likelihood", "reward", "weighted", "latent_reward", "latent_weighted", "agreement"]


class SamplingSection(Section):
    """A setting of the evaluation: samples of a problem that are drawn independently."""

    noise: str | None = Field(None, description="noise on the latents as kind:scale; None: none")
    temperature: float = Field(0.0, ge=0, description="temperature of the answers; 0: the most likely token")
    answers_per_thought: int = Field(1, gt=0, description="answers drawn after each thought")

    @model_validator(mode="after")
    def _diverse(self) -> SamplingSection:
        if self.noise is None and self.temperature == 0:
            raise ValueError("without noise and with temperature 0 all samples are equal; set one of them")
        if self.answers_per_thought > 1 and self.temperature == 0:
            raise ValueError("answers_per_thought needs a temperature, or all answers of a thought are equal")
        if self.answers_per_thought > 1 and self.noise is None:
            raise ValueError("answers_per_thought needs noise: without it all answers share one thought already")
        return self


class SearchSection(Section):
    """A setting of the evaluation: a search over the thoughts of a problem, by a beam or a tree."""

    kind: Literal["beam", "tree"] = Field(description="a beam keeps the best thoughts after each latent; a tree all")
    noise: str = Field(description="noise on the latents where thoughts branch, as kind:scale")
    temperature: float = Field(0.0, ge=0, description="temperature of the answer after each thought")
    children: int = Field(gt=1, description="continuations of a thought where it branches")
    width: int | None = Field(None, gt=0, description="of a beam: thoughts kept after each latent")
    at: int | str | None = Field(
        None,
        description="of a tree: the latent where it branches, counted from 1; each; or sensitive, the latent that the "
        "answers depend on most",
    )

    @field_validator("at")
    @classmethod
    def _a_place(cls, at: int | str | None) -> int | str | None:
        if at not in (None, "each", "sensitive") and not (isinstance(at, int) and at >= 1):
            raise ValueError(f"{at!r} must be a latent, counted from 1, or each or sensitive")
        return at

    @model_validator(mode="after")
    def _whole(self) -> SearchSection:
        given = {"beam": self.width, "tree": self.at}
        wrong = {"beam": "at", "tree": "width"}[self.kind]
        if given[self.kind] is None:
            need = {"beam": "width", "tree": "at (a latent, each or sensitive)"}[self.kind]
            raise ValueError(f"a {self.kind} needs {need}")
        if getattr(self, wrong) is not None:
            raise ValueError(f"a {self.kind} has no {wrong}; remove it")
        return self


class EvaluateSection(Section):
    """How finished stages are measured: greedily, and with every setting of sampling and search."""

    problems: int | None = Field(1000, gt=0, description="evaluation problems; None: all")
    num_samples: int = Field(16, gt=0, description="samples of a problem in each setting")
    k: list[int] = Field(default_factory=lambda: [1, 4, 16], description="each k of pass@k and of the selectors")
    sampling: list[SamplingSection] = Field(
        default_factory=lambda: [SamplingSection(temperature=1.0)], description="settings of independent samples"
    )
    search: list[SearchSection] = Field(default_factory=list, description="settings that search over thoughts")
    num_latents: int | None = Field(
        None, ge=0, description="latents of a thought, where a model has any; 0: it thinks in text; None: as trained"
    )
    loops: int | None = Field(
        None, gt=0, description="loops of a thought, where a model has looped latents; None: as trained"
    )
    latents_per_step: int | None = Field(
        None, gt=0, description="latents of each block of a thought, where a model has any; None: as trained"
    )
    thought: Literal["vectors", "as_text"] = Field(
        "vectors",
        description="what the answer sees of a thought, where a model has one: its latents, or the tokens read in them",
    )
    monitor: tuple[MonitorScore, ...] = Field(
        ("distance", "valid"),
        description="scores of what is read in greedy thoughts, to tell wrong answers by; logprob loads the sft model, "
        "also while rl measures held-out problems",
    )
    selectors: tuple[Selector, ...] = Field(
        ("majority",), description="ways to choose one of k samples, see docs/algorithm.md"
    )
    selection_reward: Reward | None = Field(None, description="the reward that the selectors reward and weighted read")
    latent_reward: HomePath | None = Field(None, description="folder of the latent reward model")
    scorer: HomePath = Field("exact_match", description="reward function; a score above 0.5 counts as right")
    max_new_tokens: int = Field(64, gt=0, description="most tokens of an answer, or of text steps and answer")
    batch_size: int = Field(256, gt=0, description="answers drawn at once")
    bootstrap: int = Field(1000, gt=0, description="resamples of a bootstrapped 95% interval")

    @model_validator(mode="after")
    def _counts_fit(self) -> EvaluateSection:
        if max(self.k, default=0) > self.num_samples or min(self.k, default=1) < 1:
            raise ValueError(f"k={self.k} must lie between 1 and num_samples={self.num_samples}")
        for sampling in self.sampling:
            if self.num_samples % sampling.answers_per_thought:
                raise ValueError(
                    f"num_samples={self.num_samples} must be a multiple of "
                    f"answers_per_thought={sampling.answers_per_thought}"
                )
        changed = [name for name in ("num_latents", "loops", "latents_per_step") if getattr(self, name) is not None]
        changed += ["thought=as_text"] if self.thought == "as_text" else []
        if changed and (self.search or self.latent_reward is not None):
            raise ValueError(
                f"search and latent_reward need the latents that were trained; remove {' and '.join(changed)}"
            )
        if self.num_latents is not None and self.latents_per_step is not None:
            raise ValueError("num_latents and latents_per_step both say how many latents a thought has; remove one")
        if self.thought == "as_text" and self.num_latents == 0:
            raise ValueError("thought=as_text has no latent to read with num_latents=0; remove one of them")
        return self

    @model_validator(mode="after")
    def _selectors_fit(self) -> EvaluateSection:
        needy = [name for name in self.selectors if name in ("reward", "weighted")]
        if needy and self.selection_reward is None:
            raise ValueError(
                f"selectors {', '.join(needy)} choose by a reward; give selection_reward (a function or a model), "
                "or leave them out"
            )
        if self.selection_reward is not None and not needy:
            raise ValueError("selection_reward is used by the selectors reward and weighted; add one of them")
        judged: list[str] = [name for name in self.selectors if name.startswith("latent_")]
        judged += ["search (a beam)" for search in self.search if search.kind == "beam"][:1]
        if judged and self.latent_reward is None:
            raise ValueError(
                f"{', '.join(judged)} needs latent_reward, the folder of a latent reward model "
                "(`neuralese reward-model` trains one)"
            )
        if self.latent_reward is not None and not judged:
            raise ValueError(
                "latent_reward is used by the selectors latent_reward and latent_weighted and by a beam; add one of "
                "them"
            )
        return self


class ControlsSection(Section):
    """The arms to train on the same data with the same limits. Controls are off by default: each takes as long as the
    curriculum."""

    latent: bool = Field(True, description="the arm latent, which is the stage curriculum; false: no curriculum, no rl")
    text_cot: bool = Field(False, description="text chain of thought for as many optimizer steps")
    no_cot: bool = Field(False, description="question -> answer, from the base model")
    pause: bool = Field(False, description="pause tokens in place of latents, in one pass")
    pause_multi: bool = Field(False, description="pause tokens in place of latents, one pass for each")
    no_curriculum: bool = Field(False, description="the last level only, for as many optimizer steps as all levels")
    more_supervised: bool = Field(
        False, description="the last level instead of rl, for as many optimizer steps and samples"
    )

    @property
    def chosen(self) -> list[str]:
        """The controls that are on."""
        return [name for name, on in self if on and name != "latent"]


class TrackingSection(Section):
    """Weights & Biases. metrics.jsonl in the run folder is always written."""

    wandb: bool = Field(True, description="record the run in Weights & Biases; offline where there is no key")
    project: str | None = Field(None, description="W&B project; None: WANDB_PROJECT, else neuralese")
    entity: str | None = Field(None, description="W&B entity; None: WANDB_ENTITY, else that of the key")


class Recipe(Section):
    """A whole recipe. A stage without its section (sft, curriculum, rl) is not trained."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="name of the run and of its folder")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of all random numbers; its range is NumPy's")
    output_dir: HomePath = Field("outputs", description="folder of run folders")
    plugins: list[HomePath] = Field(
        default_factory=list, description="modules or files that register your own noises and thought sources"
    )
    model: ModelSection = Field(description="the base model")
    data: DataSection = Field(description="training and evaluation problems")
    latent: LatentSection = Field(LatentSection(), description="how latents are made")
    sft: SFTSection | None = Field(None, description="stage: text chain of thought")
    curriculum: CurriculumSection | None = Field(None, description="stage: text steps become latents")
    rl: RLSection | None = Field(None, description="stage: reinforcement learning on sampled answers")
    evaluate: EvaluateSection = Field(EvaluateSection(), description="how finished stages are measured")
    controls: ControlsSection = Field(ControlsSection(), description="control arms to train besides")
    tracking: TrackingSection = Field(TrackingSection(), description="Weights & Biases")

    @model_validator(mode="after")
    def _controls_fit(self) -> Recipe:
        if self.controls.chosen and self.curriculum is None:
            raise ValueError("controls train under the curriculum section, which is missing")
        if self.controls.more_supervised and (self.rl is None or "max_steps" not in self.rl.trainer):
            raise ValueError("controls.more_supervised takes as many optimizer steps as RL; give rl.trainer.max_steps")
        if not self.controls.latent and (self.rl is not None or not self.controls.chosen):
            raise ValueError("controls.latent=false leaves nothing for rl to train; set rl=null and choose a control")
        section = self.curriculum
        if self.latent.stop_head and section is not None and section.pad_latents:
            raise ValueError(
                "latent.stop_head learns nothing where all problems have as many latents; set "
                "curriculum.pad_latents=false"
            )
        if section is not None and not section.pad_latents and not self.latent.stop_head:
            raise ValueError(
                "curriculum.pad_latents=false trains on as many latents as a problem has steps, which nobody knows "
                "when the model is used; set latent.stop_head=true"
            )
        if self.latent.stop_head and self.controls.pause:
            raise ValueError("controls.pause runs its tokens in one pass and cannot stop; choose controls.pause_multi")
        if self.latent.stop_head and self.rl is not None:
            raise ValueError("rl replays a fixed number of latents and cannot train with latent.stop_head; set rl=null")
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.output_dir) / self.name

    @property
    def held_out(self) -> int:
        """Number of held-out problems: the most that a stage measures on while it trains."""
        count = self.curriculum.eval_problems if self.curriculum is not None else 0
        return max(count, self.rl.eval_problems) if self.rl is not None and self.rl.eval_every is not None else count

    def to_yaml(self) -> str:
        """The recipe with all defaults, as it is kept in the run folder."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
