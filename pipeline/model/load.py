"""Loads checkpoints of ours, and Hugging Face models to become reasoners."""

from __future__ import annotations

import logging
import os.path
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from ...data.errors import reason
from ..latent.config import VERSION, LatentConfig, ModelError
from ..latent.engine.compiling import compile_layers
from ..latent.engine.precision import dtype_name, weight_dtype
from ..latent.engine.verify import check_exact
from ..latent.latentize import (
    MODULES,
    latent_section,
    latentize,
    load_modules,
    measure_embedding_rms,
)
from ..latent.tokens import fit_embeddings, prepare_tokenizer, special_token_ids
from ..problems.encode import text_end
from ..recipe.schema import QuantizationSection
from .folder import check_config, check_model, check_vocabulary, not_loaded
from .gguf import check_gguf
from .quantization import as_frozen_base, loading_options
from .reasoner import Reasoner, eos_token_ids

logger = logging.getLogger(__name__)


def load_reasoner(
    name_or_path: str | Path,
    *,
    trained: bool = False,
    supervised: bool = False,
    trust_remote_code: bool = False,
    dtype: Any = None,
    attn_implementation: str | None = None,
    quantization: QuantizationSection | None = None,
    compile: bool = False,
    **latent_options: Any,
) -> Reasoner:
    """Loads a checkpoint of ours, or any Hugging Face causal language model to become one.

    Args:
        name_or_path: Hub id or folder.
        trained: Refuse a model that has no latent section yet.
        supervised: Also load the module of the section's supervision, to train on or to read thoughts.
        dtype: What it computes in: float32, bfloat16 (under autocast, with weights in float32) or float64; auto: what
            `auto_dtype` says. Default: what it was trained in, float32 for a model of others.
        attn_implementation: Attention of Transformers, sdpa or eager. Default: Transformers' own choice.
        quantization: Quantise the linear layers, to train a LoRA over them. Such a reasoner cannot be saved.
        compile: Have torch.compile compile the decoder layers when they first run.
        latent_options: Fields of `LatentConfig` to set, such as thought_source. Default: those of the checkpoint.

    Raises:
        ModelError: Nothing to load there, an unfit architecture, or a latent section that is absent where `trained`
            asks for it, cannot be read, or contradicts the tokenizer; a dtype that reasoners do not compute in; no
            bitsandbytes to quantise with; nothing that compiles.
    """
    name = os.path.expanduser(name_or_path)
    if dtype not in (None, "auto"):
        latent_options["compute_dtype"] = dtype_name(dtype)
    config, tokenizer = load_tokenizer(name, trust_remote_code)
    if dtype == "auto":
        latent_options["compute_dtype"] = auto_dtype(config)[0]
    recorded = latent_section(config)
    if recorded is None and trained:
        raise ModelError(
            f"{name!r} has no latent section in its config.json: it was not trained as a latent reasoner. Name a "
            "final/ folder of a run, or train the model first."
        )
    computes_in = latent_options.setdefault("compute_dtype", (recorded or LatentConfig()).compute_dtype)
    options: dict[str, Any] = {"dtype": weight_dtype(computes_in), "attn_implementation": attn_implementation}
    if quantization is not None:
        options |= loading_options(quantization, computes_in)
    model = _load_model(name, trust_remote_code, options)
    if quantization is not None:
        as_frozen_base(model, computes_in)
    reasoner = make_reasoner(model, tokenizer, supervised, **latent_options)
    load_modules(reasoner.model, name)
    if compile:
        compile_layers(reasoner.model)
    return reasoner


def auto_dtype(config: Any) -> tuple[str, str]:
    """What a model should compute in, by its Transformers config, and why: what a checkpoint of ours was trained in,
    else bfloat16 where its config says so, and float32 for all others: the range of float16 is too small to train in.
    """
    recorded = latent_section(config)
    if recorded is not None:
        return recorded.compute_dtype, "the checkpoint was trained in it"
    said = str(config.get_text_config().dtype or config.dtype).removeprefix("torch.")
    if said == "bfloat16":
        return said, "the model's config says so"
    return "float32", f"the model's config says {said}" if said != "None" else "the model's config says nothing"


def _load_model(name: str, trust_remote_code: bool, options: dict[str, Any]) -> PreTrainedModel:
    """A model with its weights. Transformers' report of unused weights would name our modules, which come later."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, with their names
            **options,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise ModelError(f"The weights of {name!r} cannot be loaded: {reason(error)}.") from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if info["mismatched_keys"]:
        key, found, wanted = sorted(info["mismatched_keys"])[0]
        raise ModelError(
            f"The weights of {name!r} do not fit its config.json: {key} has the shape {tuple(found)}, the config asks "
            f"for {tuple(wanted)}."
        )
    unused = [key for key in sorted(info["unexpected_keys"]) if key.split(".")[0] not in MODULES]
    for keys, what in ((sorted(info["missing_keys"]), "are not there and begin untrained"), (unused, "are not used")):
        if keys:
            logger.warning("%d weights of %r %s, the first: %s.", len(keys), name, what, keys[0])
    return model


def load_tokenizer(
    name_or_path: str | Path, trust_remote_code: bool = False, gguf_file: str | None = None
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The config of a model, and its tokenizer with the tokens that latents need; no weights.

    Args:
        gguf_file: The file in `name_or_path` that they are read from. None: the folder's own.

    Raises:
        ModelError: Nothing to load there, or no causal language model in full precision with its tokenizer.
    """
    name = os.path.expanduser(name_or_path)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if gguf_file is None:
        check_model(name)
    else:
        check_gguf(name, gguf_file)
        options["gguf_file"] = gguf_file
    try:
        config = AutoConfig.from_pretrained(name, **options)
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except Exception as error:  # those who read tokenizers raise errors of every kind
        raise not_loaded(name, error) from error
    check_config(name, config, trust_remote_code)
    check_vocabulary(name, tokenizer)
    prepare_tokenizer(tokenizer)
    return config, tokenizer


def make_reasoner(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, supervised: bool = False, **latent_options: Any
) -> Reasoner:
    """Makes a reasoner of a model and a tokenizer: special tokens, embeddings, latent section. Idempotent.

    Raises:
        ModelError: As `load_reasoner`, or the model computes something else when run pass by pass (`check_exact`).
    """
    recorded = latent_section(model.config)
    written = model.config.latent["version"] if recorded is not None else None
    prepare_tokenizer(tokenizer)
    token_ids = special_token_ids(tokenizer)
    if recorded is not None and recorded.token_ids != token_ids:
        raise ModelError(
            f"The checkpoint's latent section records the special tokens {recorded.token_ids}, its tokenizer has "
            f"{token_ids}. The tokenizer does not belong to this checkpoint."
        )
    fit_embeddings(model, tokenizer)
    known = {field.name for field in fields(LatentConfig)}
    unknown = sorted(latent_options.keys() - known)
    if unknown:
        raise ModelError(f"Unknown latent options {unknown}. Known are {sorted(known)}.")
    section = replace(recorded or LatentConfig(), token_ids=token_ids, **latent_options)
    latentize(model, section, supervised)
    if recorded is None or written != VERSION:  # earlier releases took models that this one refuses
        check_exact(model)
    if recorded is None:
        measure_embedding_rms(model)
    if section.format == "chat":
        _stop_at(model, text_end(tokenizer, section)[-1], tokenizer)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return Reasoner(model, tokenizer)


def _stop_at(model: PreTrainedModel, token: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Enters a token, that which ends a turn, into those at which generation stops, ours and that of Transformers."""
    known = eos_token_ids(model, tokenizer)
    if token not in known:
        model.generation_config.eos_token_id = [*known, token]
