"""What keeps a model from being loaded, told before its weights are read: its folder, its config, its tokenizer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ...data.errors import reason, shown
from ..latent.config import ModelError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def check_model(name: str) -> None:
    """Makes sure that a folder holds a config and whole weights as safetensors; a hub id is looked up later.

    Raises:
        ModelError: It does not, or there is no folder and the name cannot be a hub id.
    """
    if not is_folder(name):
        return
    folder = Path(name)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise ModelError(
            f"{name} holds an adapter (adapter_config.json), not a model. Merge it into its base model by peft's "
            "AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(...), save the tokenizer "
            "beside it, and name that folder."
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{name} has no config.json. {_advice(folder)}")
    _read_object(folder / "config.json")
    _check_weights(folder)


def is_folder(name: str) -> bool:
    """Whether a name is that of a folder. Any other one must be such as the hub has.

    Raises:
        ModelError: It is a file, or neither a folder nor a name that the hub could have.
    """
    path = Path(name)
    if path.is_dir():
        return True
    if path.suffix == ".gguf" and path.exists():
        raise ModelError(f"{name} is a file. Name its folder, {path.parent}, and model.gguf_file: {path.name}.")
    if path.exists():
        raise ModelError(f"{name} is a file. Name the folder that holds the model's config.json and weights.")
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise ModelError(f"There is no folder {name}. Check the path; relative ones start at {Path.cwd()}.")
    return False


def _advice(folder: Path) -> str:
    """What to name in place of a folder that holds no model."""
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    if ggufs:
        return f"To take its GGUF weights, name their file in the recipe: model.gguf_file: {' or '.join(ggufs)}."
    finals = sorted(str(final) for final in folder.glob("*/final") if final.is_dir())
    if finals:
        return f"It is a run folder. Name one of its checkpoints: {', '.join(finals)}."
    return "Name a folder that `save_pretrained` wrote, such as final/ of a stage, or a hub id."


def _read_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}. Copy or download it again.") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} holds {shown(found)}, not a JSON object. Copy or download it again.")
    return found


def _check_weights(folder: Path) -> None:
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():
        files = [folder / SAFE_WEIGHTS_NAME]
    elif index.is_file():
        files = [folder / shard for shard in sorted(set(_read_object(index).get("weight_map", {}).values()))]
    elif any(path for pattern in PICKLES for path in folder.glob(pattern)):
        raise ModelError(
            f"The weights in {folder} are pickles, which may run code when they are read. If you trust them, convert "
            "them by AutoModelForCausalLM.from_pretrained(..., use_safetensors=False).save_pretrained(...)."
        )
    elif any(folder.glob("*.gguf")):
        raise ModelError(f"{folder} has no weights but GGUF. {_advice(folder)}")
    else:
        raise ModelError(f"{folder} has no weights: there is no {SAFE_WEIGHTS_NAME}. Copy or download the model again.")
    for file in files:
        if not file.is_file():
            raise ModelError(f"{folder} lacks {file.name}, which its {index.name} names. Copy or download it again.")
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise ModelError(f"{file} is cut short or damaged: {error}. Copy or download it again.") from error


def check_config(name: str, config: Any, trust_remote_code: bool) -> None:
    """Makes sure that a config is that of a causal language model in full precision.

    Raises:
        ModelError: It is not.
    """
    quantization = config.to_dict().get("quantization_config")
    if quantization is not None:
        raise ModelError(
            f"The weights of {name!r} are quantized ({quantization.get('quant_method', 'unknown')}), which training "
            "cannot change. Name the model in full precision that it was made from; model.quantization quantises it "
            "while it is loaded, for a LoRA."
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not trust_remote_code:
        raise ModelError(
            f"{name!r} is a {config.model_type!r} model, which has no causal language model in Transformers. "
            "Latents need a decoder-only causal language model."
        )
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.to_dict().get("is_decoder", False):
        raise ModelError(
            f"{name!r} is a {config.model_type!r} model, an encoder, whose attention looks ahead. Latents need a "
            "decoder-only causal language model, such as GPT-2, Llama or Qwen."
        )


def check_vocabulary(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Makes sure that a tokenizer knows more than its special tokens: without its files Transformers makes one up.

    Raises:
        ModelError: It does not.
    """
    if not tokenizer.get_vocab().keys() - {str(token) for token in tokenizer.added_tokens_decoder.values()}:
        raise ModelError(
            f"{name!r} has no tokenizer: neither tokenizer.json nor another vocabulary is there. Save the model's "
            "tokenizer into the same folder."
        )


class Unreachable(ModelError):
    """A model that is neither at hand nor can be had from the hub now."""


def not_loaded(name: str, error: Exception) -> ModelError:
    """The error of a config or tokenizer that could not be loaded, which says why a hub id led to nothing."""
    said = reason(error)
    if Path(name).is_dir():
        return ModelError(f"The model in {name} cannot be loaded: {said}. Check the files in the folder.")
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    kind, why = ModelError, f"{said}. Check the spelling, or name a folder."
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        why = "the hub gives it to those alone whom it has granted access. Ask for it there, then `hf auth login`."
    elif any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        why = "the hub has none of this id, or a private one. Check the spelling, or `hf auth login`."
    elif any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        kind = Unreachable
        state = "HF_HUB_OFFLINE is set" if is_offline_mode() else "the hub cannot be reached"
        why = f"{state} while its cache lacks the model. Check the spelling, download it, or name a folder."
    return kind(f"There is no model {name!r}: no folder here has that name, and {why}")
