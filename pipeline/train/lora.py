"""LoRA: the adapter of a stage, and how it is merged in the end."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel

from ..latent.config import LatentConfig
from ..latent.latentize import MODULES
from ..latent.value_head import add_value_head
from ..loading import load_reasoner
from ..reasoner import Reasoner
from ..sections import Recipe


def lora_config(recipe: Recipe, reasoner: Reasoner, special_tokens: bool = True) -> LoraConfig | None:
    """The recipe's LoRA, or None. Modules of our own are trained whole.

    Args:
        special_tokens: Also train the embedding rows of the latent special tokens.
    """
    if recipe.model.lora is None:
        return None
    options: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if special_tokens:
        embedding = reasoner.model.get_input_embeddings()
        name = next(name for name, module in reasoner.model.named_modules() if module is embedding).rsplit(".", 1)[-1]
        options["trainable_token_indices"] = {name: list(reasoner.config.token_ids)}
    given = {**options, **recipe.model.lora}
    ours = [name for name in MODULES if any(key.startswith(f"{name}.") for key, _ in reasoner.model.named_parameters())]
    if ours:
        given["modules_to_save"] = [*(given.get("modules_to_save") or []), *ours]
        excluded = given.get("exclude_modules") or []
        patterns = [excluded] if isinstance(excluded, str) else [rf"(.*\.)?{re.escape(name)}" for name in excluded]
        given["exclude_modules"] = "|".join([*patterns, rf"(.*\.)?({'|'.join(ours)})\..*"])
    return LoraConfig(**given)


def merge_adapter(
    base: str | Path,
    adapter: Path,
    section: LatentConfig,
    recipe: Recipe,
    supervised: bool = False,
    has_value_head: bool = False,
) -> None:
    """Replaces an adapter folder by the full model with the adapter merged into it.

    Args:
        supervised: The adapter was trained with the module of a supervision.
        has_value_head: And with a value head.
    """
    settings = {name: value for name, value in section.to_dict().items() if name not in ("version", "token_ids")}
    fresh = load_reasoner(
        base,
        supervised=supervised,
        trust_remote_code=recipe.model.trust_remote_code,
        dtype=recipe.model.dtype,
        **settings,
    )
    if has_value_head:
        add_value_head(fresh.model)
    merged = PeftModel.from_pretrained(fresh.model, str(adapter)).merge_and_unload()
    shutil.rmtree(adapter)
    merged.save_pretrained(adapter)
