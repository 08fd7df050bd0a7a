"""Every key of a recipe, its type and its default: one class for each section. Strict, and frozen once read."""

from __future__ import annotations

import os.path
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


def expanded(path: str) -> str:
    """A path in which a leading `~` or `~user` is that home folder. Any other string is left as it is.

    Raises:
        ValueError: There is no such user, or nobody knows the home folder.
    """
    found = os.path.expanduser(path)
    if found.startswith("~"):
        raise ValueError(f"{path!r} begins with a home folder that does not exist; write the path in full")
    return found


# A path, or a name that may be one, such as a hub id or a reward function in a file.
HomePath = Annotated[str, AfterValidator(expanded)]


class ModelSection(Section):
    """The base model: a hub id or folder, or an untrained model built from a Transformers config."""

    name_or_path: HomePath | None = None
    config: dict[str, Any] | None = Field(None, description="model_type and the fields of that Transformers config")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="what all stages and measurements compute in; weights are float32"
    )
    trust_remote_code: bool = False
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; None trains all weights")

    @field_validator("dtype", mode="before")
    @classmethod
    def _trains(cls, value: Any) -> Any:
        if value not in ("float32", "bfloat16"):
            raise ValueError(
                f"{value!r} is nothing that stages train in: take float32, or bfloat16, which has float32's range, for "
                "matrix products in half precision over weights in float32"
            )
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> ModelSection:
        if (self.name_or_path is None) == (self.config is None):
            raise ValueError("give exactly one of name_or_path (hub id or folder) and config (to build a new model)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("config needs a model_type, for example gpt2")
        return self


class DataSource(Section):
    """Problems from a generated task, a local file, or a Hugging Face dataset."""

    task: str | None = Field(None, description="a generated task: chain, prosqa or graph_path")
    options: dict[str, Any] = Field(default_factory=dict, description="fields of the task")
    size: int | None = Field(None, gt=0, description="problems to generate")
    path: HomePath | None = None
    dataset: HomePath | None = None
    name: str | None = Field(None, description="configuration of the Hugging Face dataset")
    split: str = "train"
    columns: dict[str, str | None] | None = Field(None, description="our field -> their column")
    step_splitter: Literal["line", "sentence", "gsm8k", "prosqa_symbolic"] | None = None
    limit: int | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> DataSource:
        if sum(origin is not None for origin in (self.task, self.path, self.dataset)) != 1:
            raise ValueError("give exactly one of task, path and dataset")
        if self.task is not None and self.size is None:
            raise ValueError("a generated task needs a size, the number of problems")
        return self


class DataSection(Section):
    train: DataSource
    eval: DataSource


class LatentSection(Section):
    thought_source: str = "norm_matched"
    thought_options: dict[str, Any] = Field(default_factory=dict, description="keyword arguments of the thought source")
    latents_per_step: int = Field(1, gt=0)
    max_latents: int | None = Field(None, gt=0, description="no more latents than these; None: for every step")
    delimiters: bool = Field(False, description="special tokens around the latents")
    stop_head: bool = Field(False, description="a head ends the thought; num_latents becomes a maximum")
    jacobi_sweeps: int | None = Field(
        None, gt=0, description="make all latents at once in so many fixed-point sweeps; None: one pass a latent"
    )
    backprop_steps: int | None = Field(
        None, ge=0, description="only the last so many latents (sweeps) carry gradient; None: all"
    )

    @model_validator(mode="after")
    def _whole_steps(self) -> LatentSection:
        if self.max_latents is not None and self.max_latents % self.latents_per_step:
            raise ValueError(
                f"max_latents={self.max_latents} must be a multiple of latents_per_step={self.latents_per_step}"
            )
        if self.stop_head and self.jacobi_sweeps is not None:
            raise ValueError("stop_head needs latents made one after the other; remove jacobi_sweeps")
        return self


class SFTSection(Section):
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of trl.SFTConfig")


class CurriculumSection(Section):
    """One Trainer per level. `trainer.max_steps` or `trainer.num_train_epochs` is the limit of each level."""

    preset: str | None = Field(None, description="a published schedule that fills in what the recipe leaves out")
    steps_per_level: int | list[int | Literal["all"]] = Field(
        1, description="text steps each level removes; a list says it level by level"
    )
    pad_latents: bool = Field(True, description="all problems of a level have its latents; false: those of their steps")
    promote_at: float | None = Field(
        0.95, gt=0, le=1, description="held-out greedy accuracy that ends a level; None: never"
    )
    last_level_at: float | None = Field(None, gt=0, le=1, description="the same for the last level, where it differs")
    patience: int | None = Field(None, gt=0, description="measurements without a new best that end a level; None: any")
    at_limit: Literal["stop", "continue"] = Field(
        "stop", description="what follows a level that ends below its threshold"
    )
    step_back_at: float | None = Field(
        None, gt=0, le=1, description="below this accuracy on the level before, that one is trained again; None: never"
    )
    max_step_backs: int = Field(1, gt=0, description="times that a level may be trained again")
    eval_every: int = Field(100, gt=0, description="optimizer steps between two measurements")
    eval_problems: int = Field(256, gt=0, description="training problems held out for the measurement")
    mix_earlier: float = Field(0.0, ge=0, le=1, description="share of items shown at an earlier level")
    supervision: Literal["none", "next_step", "decoder", "distillation"] = "none"
    supervision_weight: float = Field(1.0, gt=0, description="weight of the supervision's loss")
    supervision_options: dict[str, Any] = Field(
        default_factory=dict, description="keyword arguments of the supervision"
    )
    noise: str | None = Field(None, description="noise on the latents in the last level, as kind:scale")
    noise_ramp: float = Field(0.5, ge=0, le=1, description="share of the last level in which the noise grows from 0")
    reset_optimizer: bool = Field(True, description="each level begins with a fresh optimizer")
    trainer: dict[str, Any] = Field(default_factory=dict, description="fields of transformers.TrainingArguments")
    last_level_trainer: dict[str, Any] = Field(default_factory=dict, description="those of the last level that differ")

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
    """A reward function or a reward model, its weight, and what is done when it is slow or fails."""

    function: HomePath | None = Field(None, description="module:function, path/to/file.py:function or a built-in name")
    model: HomePath | None = Field(None, description="a sequence classifier: hub id or folder")
    label: int | None = Field(None, ge=0, description="the model's label whose probability counts; None: its only one")
    weight: float = Field(1.0, ge=-1e6, le=1e6, allow_inf_nan=False)
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False, description="seconds that one try may take")
    retries: int = Field(0, ge=0, description="further tries after one that raised or took too long")
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
    """What PPO has and GRPO has not."""

    gamma: float = Field(1.0, ge=0, le=1, description="discount a step, latents and answer tokens alike")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of the advantage estimates")
    vf_coef: float = Field(0.5, ge=0, description="weight of the value loss")
    cliprange_value: float = Field(0.2, gt=0, description="largest change of a value that counts in one update")
    whiten_advantages: bool = Field(True, description="mean 0 and variance 1 over all processes")
    detach_trunk: bool = Field(True, description="the value loss trains its head alone")
    kl_target: float | None = Field(None, gt=0, description="nats a token that trainer.beta is steered to")


class RLSection(Section):
    algorithm: Literal["grpo", "ppo"] = "grpo"
    ppo: PPOSection | None = Field(None, description="only with algorithm=ppo; None: its defaults")
    noise: str | None = Field("gaussian:0.1", description="noise on the latents as kind:scale; None: none")
    estimator: str = Field(
        "replay", description="replay, score_function, score_function_rsqrt_d, score_function_mean, or mix:a"
    )
    answers_per_thought: int = Field(1, gt=0, description="answers after each thought; num_generations counts answers")
    antithetic: bool = Field(False, description="thoughts in pairs whose noise mirrors each other's")
    max_at: int | None = Field(None, gt=0, description="credit what a rollout adds to the best of so many")
    equal_groups: Literal["keep", "drop", "resample"] = Field(
        "keep", description="groups of equal rewards: keep, leave out of the mean, or draw again"
    )
    eval_every: int | None = Field(None, gt=0, description="steps between two measurements of held-out problems")
    eval_problems: int = Field(256, gt=0, description="held-out problems of such a measurement")
    alarms: Literal["warn", "stop"] = Field("warn", description="what an alarm does, see docs/metrics.md")
    rewards: list[Reward] = Field(default_factory=lambda: [Reward(function="exact_match")], min_length=1)
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


Selector = Literal["majority", "likelihood", "reward", "weighted", "latent_reward", "latent_weighted", "agreement"]


class SamplingSection(Section):
    """Samples of a problem that are drawn apart from each other."""

    noise: str | None = None
    temperature: float = Field(0.0, ge=0)
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
    """Thoughts of a problem that are searched: a beam, or a tree."""

    kind: Literal["beam", "tree"]
    noise: str = Field(description="on the latents where thoughts branch")
    temperature: float = Field(0.0, ge=0, description="of the answer after each thought")
    children: int = Field(gt=1, description="ways a thought goes on where it branches")
    width: int | None = Field(None, gt=0, description="of a beam: thoughts kept after each latent")
    at: int | str | None = Field(
        None, description="of a tree: the latent where it branches, from 1, each one, or the one answers hang on most"
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
    problems: int | None = Field(1000, gt=0, description="evaluation problems; None: all")
    num_samples: int = Field(16, gt=0)
    k: list[int] = Field(default_factory=lambda: [1, 4, 16])
    sampling: list[SamplingSection] = Field(default_factory=lambda: [SamplingSection(temperature=1.0)])
    search: list[SearchSection] = Field(default_factory=list)
    num_latents: int | None = Field(
        None, ge=0, description="of checkpoints with latents: think so many; 0: in text; None: as many as trained"
    )
    selectors: tuple[Selector, ...] = Field(
        ("majority",), description="ways to choose one of k samples, see docs/algorithm.md"
    )
    selection_reward: Reward | None = Field(None, description="by which reward and weighted choose")
    latent_reward: HomePath | None = Field(None, description="folder of the latent reward model, which judges thoughts")
    scorer: HomePath = Field("exact_match", description="reward function; a score above 0.5 counts as right")
    max_new_tokens: int = Field(64, gt=0)
    batch_size: int = Field(256, gt=0, description="answers drawn at once")
    bootstrap: int = Field(1000, gt=0, description="resamples behind the 95% intervals that are bootstrapped")

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
        if self.num_latents is not None and (self.search or self.latent_reward is not None):
            raise ValueError("search and latent_reward need the latents that were trained; remove num_latents")
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
    """Arms of the curriculum, each trained on the same data with the same limits. All but `latent` are off by default:
    they take as long as the run."""

    latent: bool = Field(True, description="the arm itself; false leaves it and RL out")
    text_cot: bool = False
    no_cot: bool = False
    pause: bool = False
    pause_multi: bool = False
    no_curriculum: bool = False
    more_supervised: bool = Field(False, description="in place of RL as many supervised steps on as many samples")

    @property
    def chosen(self) -> list[str]:
        """The controls that are on."""
        return [name for name, on in self if on and name != "latent"]


class TrackingSection(Section):
    wandb: bool = True
    project: str | None = Field(None, description="None: WANDB_PROJECT, else neuralese")
    entity: str | None = Field(None, description="None: WANDB_ENTITY, else that of the key")


class Recipe(Section):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    seed: int = Field(0, ge=0, lt=2**32, description="NumPy takes no other")
    output_dir: HomePath = "outputs"
    plugins: list[HomePath] = Field(
        default_factory=list, description="modules or files that register noises and thought sources of one's own"
    )
    model: ModelSection
    data: DataSection
    latent: LatentSection = LatentSection()
    sft: SFTSection | None = None
    curriculum: CurriculumSection | None = None
    rl: RLSection | None = None
    evaluate: EvaluateSection = EvaluateSection()
    controls: ControlsSection = ControlsSection()
    tracking: TrackingSection = TrackingSection()

    @model_validator(mode="after")
    def _controls_fit(self) -> Recipe:
        if self.controls.chosen and self.curriculum is None:
            raise ValueError("controls train under the curriculum section, which is missing")
        if self.controls.more_supervised and (self.rl is None or "max_steps" not in self.rl.trainer):
            raise ValueError("controls.more_supervised takes as many steps as RL; give rl.trainer.max_steps")
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
        return Path(self.output_dir) / self.name

    @property
    def held_out(self) -> int:
        """Training problems kept apart, for the curriculum and for RL to be measured on."""
        count = self.curriculum.eval_problems if self.curriculum is not None else 0
        return max(count, self.rl.eval_problems) if self.rl is not None and self.rl.eval_every is not None else count

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
