"""Models that are GGUF files: read and dequantised by Transformers, once, into an ordinary Hugging Face folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...data.errors import reason
from ..latent.config import ModelError
from ..recipe.load import nearest
from ..system.compat import find_file, gguf_architectures, read_gguf_architecture
from ..system.files import follow_umask
from .folder import is_folder, not_loaded

MAGIC = b"GGUF"


def check_gguf(name: str, gguf_file: str) -> None:
    """Makes sure that a folder or hub repository has a GGUF file, and that Transformers can read a model of its kind.

    Raises:
        ModelError: The package gguf is absent, the file is, or it is no GGUF file or one of another architecture.
    """
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"model.gguf_file={gguf_file} needs the package gguf, which is not installed: pip install 'neuralese[gguf]'"
        )
    is_folder(name)
    try:
        path = find_file(name, gguf_file)
    except OSError as error:
        raise not_loaded(name, error) from error
    if path is None:
        there = _gguf_files(name)
        advice = f"There are {', '.join(there)}{nearest(gguf_file, there)}" if there else "It has no .gguf file at all."
        raise ModelError(f"{name!r} has no file {gguf_file} (model.gguf_file). {advice}")
    with Path(path).open("rb") as opened:
        magic = opened.read(len(MAGIC))
    if magic != MAGIC:
        raise ModelError(
            f"{gguf_file} of {name!r} is not a GGUF file: it begins with {magic!r}, not {MAGIC!r}. Copy or download it "
            "again; safetensors and other weights are named by their folder alone, without model.gguf_file."
        )
    try:
        architecture = read_gguf_architecture(path)
    except Exception as error:  # its reader walks over bytes: a file that was cut short raises errors of every kind
        raise ModelError(f"{gguf_file} of {name!r} is cut short or damaged: {reason(error)}.") from error
    known = gguf_architectures()
    if architecture not in known:
        raise ModelError(
            f"{gguf_file} of {name!r} holds a model of the architecture {architecture!r}, which Transformers cannot "
            f"read from GGUF. It can read {', '.join(known)}. Name the safetensors that the file was made from."
        )


def _gguf_files(name: str) -> list[str]:
    """The GGUF files of a folder or hub repository. None are found where the hub cannot be asked."""
    folder = Path(name)
    if folder.is_dir():
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*.gguf"))
    try:
        return sorted(file for file in HfApi().list_repo_files(name) if file.endswith(".gguf"))
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return []


def load_gguf(name: str, gguf_file: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with its weights dequantised to float32, and its tokenizer, chat template included.

    Nothing of the quantisation is left in it: `save_pretrained` writes ordinary safetensors.

    Raises:
        ModelError: See `check_gguf`; or weights that are cut short, absent, or of no causal language model.
    """
    check_gguf(name, gguf_file)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, gguf_file=gguf_file)
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            gguf_file=gguf_file,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
    except Exception as error:  # readers of GGUF raise errors of every kind
        raise ModelError(f"{gguf_file} of {name!r} cannot be loaded: {reason(error)}.") from error
    _check_whole(name, gguf_file, info)
    return model, tokenizer


def _check_whole(name: str, gguf_file: str, info: dict[str, Any]) -> None:
    if info["missing_keys"]:
        raise ModelError(
            f"{gguf_file} of {name!r} lacks {len(info['missing_keys'])} weights of the model, the first: "
            f"{min(info['missing_keys'])}. A file that was split must be joined first: llama-gguf-split --merge."
        )


def convert_gguf(name: str, gguf_file: str, folder: Path) -> None:
    """Writes the model of a GGUF file as an ordinary Hugging Face folder: float32 safetensors, config, tokenizer.

    Raises:
        ModelError: See `load_gguf`.
    """
    model, tokenizer = load_gguf(name, gguf_file)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    follow_umask(folder)
