"""Keys of the section model."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import HomePath, Section


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
    compile: bool = Field(
        False, description="decoder layers are compiled one by one (torch.compile) for training, sampling, measuring"
    )
    lora: dict[str, Any] | None = Field(None, description="fields of peft.LoraConfig; None: all weights are trained")
    ds3_gather_for_generation: bool = Field(
        True,
        description="whole weights on every process while rollouts are drawn or measured under ZeRO-3; false: they are "
        "gathered layer by layer, in less memory and more time",
    )
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
        return {**self.loading_in_full, "quantization": self.quantization, "compile": self.compile}

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
        if self.compile:
            raise ValueError(
                "compile does not go with quantization, whose layers run code that a compiler cannot see: remove one"
            )
        return self
