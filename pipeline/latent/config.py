"""The `latent` section of a checkpoint's `config.json`: everything inference needs to know about the latents."""

from __future__ import annotations

import inspect
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from ...data.answer_formats import ANSWER_FORMATS
from ...data.errors import UserError

SECTION = "latent"
VERSION = 7
COMPUTE_DTYPES = ("float32", "bfloat16", "float64")
INJECTIONS = ("add", "replace")
FORMATS = ("plain", "chat")
# What the fields that a version added mean for a checkpoint of the one before.
ADDED: dict[int, dict[str, Any]] = {
    2: {"jacobi_sweeps": None, "backprop_steps": None},
    3: {"thought_options": {}, "supervision_options": {}, "stop_head": False, "delimiters": True},
    4: {"compute_dtype": "float32"},
    5: {},
    6: {"loops": None, "injection": "add", "window": None, "sees_question": True},
    7: {"format": "plain", "system_prompt": None, "answer_format": "hash"},
}


class ModelError(UserError):
    """A model or checkpoint that cannot be used as asked."""


def check_options(key: str, options: dict[str, Any], kind: Any, name: str) -> None:
    """Checks the keyword arguments that a section holds for a class against those of its constructor.

    Args:
        key: The field of the section that holds them.
        kind: The class, whose constructor's first argument is ours; None: it takes no options.
        name: What users call it, with the kind of thing it is.

    Raises:
        ModelError: An option that it has not.
    """
    known = list(inspect.signature(kind).parameters)[1:] if kind is not None else []
    unknown = sorted(options.keys() - set(known))
    if unknown:
        has = f"has the options {known}" if known else "has no options"
        raise ModelError(f"Unknown {key} {unknown}: the {name} {has}.")


def key_value_heads(config: Any) -> tuple[int, int]:
    """How many heads of keys and values a layer has, and the size of one, by the text config of a model."""
    heads = config.num_attention_heads
    return getattr(config, "num_key_value_heads", None) or heads, (
        getattr(config, "head_dim", None) or config.hidden_size // heads
    )


def context_window(config: Any) -> int | None:
    """Tokens and latents that fit into one row of a model, or None where it sets no limit.

    Rotary positions of the kinds `dynamic` and `longrope` change for a whole batch as soon as one row is longer than
    what the model was first trained for; that length is their limit here.
    """
    limits = [getattr(config, "max_position_embeddings", None)]
    rope = getattr(config, "rope_parameters", None) or {}
    for kind in [rope] if "rope_type" in rope else rope.values():
        if kind["rope_type"] in ("dynamic", "longrope"):
            limits.append(kind.get("original_max_position_embeddings"))
            limits.append(getattr(config, "original_max_position_embeddings", None))
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True)
class LatentConfig:
    """What a checkpoint records about its latents. Evaluation reads it from there and from nowhere else.

    Attributes:
        thought_source: How the next input embedding is made from the last hidden state, a key of `THOUGHT_SOURCES`.
        thought_options: Keyword arguments of the thought source.
        latents_per_step: Latents that stand for one text step (`c` in Coconut).
        num_latents: Latents between the question and the answer at inference. 0: the model reasons in text. With
            `stop_head`: at most so many.
        delimiters: Whether `<|start-latent|>` and `<|end-latent|>` stand around the latents.
        level: Of the curriculum, the one that was trained last. 0: no text step was replaced yet.
        noise: Noise the model was trained with by RL, as `kind:scale`, or None.
        supervision: Help for the latents in training, a key of `SUPERVISIONS`. Inference does not need it.
        supervision_weight: Weight of its loss.
        supervision_options: Keyword arguments of the supervision.
        stop_head: A head on the hidden states ends the thought, so that a question takes as many latents as it needs.
        jacobi_sweeps: None: one pass a latent. Else all latents are made at once, in so many fixed-point sweeps
            (arXiv 2506.18582); with as many sweeps as latents the result is the same.
        loops: None, or all latents are made at once, each from the state at its own position in the loop before
            (LOTUS, arXiv 2606.31779).
        injection: With `loops`: a thought is added to the embedding of the placeholder, or replaces it.
        window: Latents in sight of a latent, itself included, and of the text after the thought, besides the question
            (see `Visibility`). None: all. 1: a latent is a recurrent state.
        sees_question: Whether latents after the first, and the text after them, attend to the question.
        backprop_steps: Latents, counted from the last, that carry a gradient to the state they were made from (with
            `jacobi_sweeps` or `loops`: sweeps or loops). None: all of them. 0: none.
        compute_dtype: What it was trained to compute in, one of `COMPUTE_DTYPES`. In bfloat16 the weights stay float32.
        format: How questions are written, one of `FORMATS`: as lines, or as turns of the tokenizer's chat template.
        system_prompt: Of `chat`, the system turn before each question that has none of its own.
        answer_format: How answers are announced, a key of `ANSWER_FORMATS`.
        token_ids: Ids of `<|start-latent|>`, `<|latent|>`, `<|end-latent|>` in the tokenizer.
        embedding_rms: Root mean square of the input embedding matrix when the level began; the norm that
            `norm_matched` thoughts are scaled to. Kept as a constant so that no pass reads a sharded weight.
        version: Format of this section.
    """

    thought_source: str = "norm_matched"
    thought_options: dict[str, Any] = field(default_factory=dict)
    latents_per_step: int = 1
    num_latents: int = 0
    delimiters: bool = False
    level: int = 0
    noise: str | None = None
    supervision: str = "none"
    supervision_weight: float = 1.0
    supervision_options: dict[str, Any] = field(default_factory=dict)
    stop_head: bool = False
    jacobi_sweeps: int | None = None
    loops: int | None = None
    injection: str = "add"
    window: int | None = None
    sees_question: bool = True
    backprop_steps: int | None = None
    compute_dtype: str = "float32"
    format: str = "plain"
    system_prompt: str | None = None
    answer_format: str = "hash"
    token_ids: tuple[int, int, int] = (-1, -1, -1)
    embedding_rms: float = 1.0
    version: int = VERSION

    def __post_init__(self) -> None:
        """
        Raises:
            ModelError: A value out of its range, or two fields that exclude each other.
        """
        for name, chosen, known in (
            ("compute_dtype", self.compute_dtype, COMPUTE_DTYPES),
            ("injection", self.injection, INJECTIONS),
            ("format", self.format, FORMATS),
            ("answer_format", self.answer_format, tuple(ANSWER_FORMATS)),
        ):
            if chosen not in known:
                raise ModelError(f"{name}={chosen!r} of the latent section must be one of {known}.")
        self._check_mode()
        for name, value, least in (
            ("latents_per_step", self.latents_per_step, 1),
            ("num_latents", self.num_latents, 0),
            ("jacobi_sweeps", self.jacobi_sweeps, 1),
            ("loops", self.loops, 1),
            ("window", self.window, 1),
            ("backprop_steps", self.backprop_steps, 0),
        ):
            if value is not None and (type(value) is not int or value < least):
                raise ModelError(f"{name}={value!r} of the latent section must be a whole number of at least {least}.")

    @property
    def mode(self) -> Literal["sequential", "jacobi", "looped"]:
        """How latents are made: one after the other, or all at once in Jacobi sweeps or in loops."""
        if self.loops is not None:
            return "looped"
        return "sequential" if self.jacobi_sweeps is None else "jacobi"

    def _check_mode(self) -> None:
        if self.loops is not None and self.jacobi_sweeps is not None:
            raise ModelError("loops and jacobi_sweeps are two ways to make all latents at once. Remove one of them.")
        if self.mode == "sequential":
            return
        passes = "jacobi_sweeps" if self.mode == "jacobi" else "loops"
        for name, is_set in (
            ("stop_head", self.stop_head),
            ("window", self.window is not None),
            ("sees_question=false", not self.sees_question),
        ):
            if is_set:
                raise ModelError(f"{name} needs latents made one after the other. Remove it or {passes}.")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, section: Any) -> LatentConfig:
        """Reads the section of a checkpoint.

        Raises:
            ModelError: Unknown version or keys, or values out of their range.
        """
        if not isinstance(section, dict):
            raise ModelError(f"The checkpoint's latent section is {section!r}, not a mapping. Repair config.json.")
        version = section.get("version")
        if version in range(1, VERSION):
            section = _upgraded(section)
        elif version != VERSION:
            raise ModelError(
                f"The checkpoint's latent section has version {version!r}, this release reads versions 1 to {VERSION}. "
                "Train the checkpoint again or install the release that wrote it."
            )
        expected = {item.name for item in fields(cls)}
        if set(section) != expected:
            raise ModelError(
                f"The checkpoint's latent section does not fit version {VERSION}: unknown keys "
                f"{sorted(set(section) - expected)}, missing keys {sorted(expected - set(section))}. "
                "Repair config.json."
            )
        token_ids = section["token_ids"]
        if not isinstance(token_ids, list | tuple) or [type(token) for token in token_ids] != [int] * 3:
            raise ModelError(f"token_ids={token_ids!r} of the checkpoint's latent section must be three token ids.")
        return cls(**{**section, "token_ids": tuple(token_ids)})


def _upgraded(section: dict[str, Any]) -> dict[str, Any]:
    """A section of an earlier version as one of this."""
    # Up to version 4 a level of the curriculum was called a stage.
    section = {"level" if key == "stage" else key: value for key, value in section.items()}
    for version in range(section["version"] + 1, VERSION + 1):
        section = {**ADDED[version], **section}
    if "supervision" not in section:  # before version 3 the weight alone said it
        section["supervision"] = "next_step" if section.get("supervision_weight") else "none"
    return {**section, "version": VERSION}
