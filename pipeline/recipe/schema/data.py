"""Keys of the section data."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ....data.gym import GymTask, Templates
from .base import HomePath, Section


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

    @model_validator(mode="before")
    @classmethod
    def _no_name_alone(cls, values: Any) -> Any:
        if isinstance(values, str):
            raise ValueError(
                f"it is {values!r} alone, which may be a file or a dataset; write {{path: {values}}} or "
                f"{{dataset: {values}}}"
            )
        return values

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
