"""LoRA: the adapter that a stage trains, and its merge into the weights at the end of the stage."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from ...data.errors import UserError
from ..latent.config import LatentConfig
from ..latent.engine.precision import computing_exactly
from ..latent.latentize import MODULES
from ..latent.mixin import LatentMixin
from ..latent.value_head import add_value_head
from ..model.load import load_reasoner
from ..model.reasoner import Reasoner
from ..recipe.schema import Recipe
from ..system.compat import is_sharded
from .lora_check import fits

# Largest relative difference of logits before and after a merge. Reordered float32 sums stay far below it.
TOLERANCE = 1e-4
# What PEFT puts into a model and saves.
ADAPTED = re.compile(r"(^|\.)(lora_\w+|modules_to_save)\.")


class MergeError(UserError):
    """A merged model whose logits differ from those of the model with the adapter."""


def lora_config(recipe: Recipe, reasoner: Reasoner, special_tokens: bool = True) -> LoraConfig | None:
    """The recipe's LoRA, or None. Our modules (thought source, supervision, ...) are trained whole, without LoRA.

    Args:
        special_tokens: Also train the embedding rows of the latent special tokens, unless the recipe's LoRA adapts the
            embeddings.
    """
    if recipe.model.lora is None:
        return None
    return adapter_config(recipe.model.lora, reasoner.model, reasoner.config.token_ids if special_tokens else None)


def adapter_config(lora: dict[str, Any], model: Any, token_ids: tuple[int, int, int] | None) -> LoraConfig:
    """The LoRA `lora` over a model with our modules on it; see `lora_config`.

    Args:
        token_ids: Those whose embedding rows are trained, too; None: no rows.
    """
    options: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    if token_ids is not None:
        embedding = model.get_input_embeddings()
        name = next(name for name, module in model.named_modules() if module is embedding)
        if not _adapts(lora, name):
            options["trainable_token_indices"] = {name.rsplit(".", 1)[-1]: list(token_ids)}
    given = {**options, **lora}
    ours = [name for name in MODULES if any(key.startswith(f"{name}.") for key, _ in model.named_parameters())]
    if ours:
        given["modules_to_save"] = [*(given.get("modules_to_save") or []), *ours]
        excluded = given.get("exclude_modules") or []
        patterns = [excluded] if isinstance(excluded, str) else [rf"(.*\.)?{re.escape(name)}" for name in excluded]
        given["exclude_modules"] = "|".join([*patterns, rf"(.*\.)?({'|'.join(ours)})\..*"])
    return LoraConfig(**given)


def _adapts(options: dict[str, Any], module: str) -> bool:
    """Whether a recipe's LoRA adapts the module with this full name."""
    targets = options.get("target_modules")
    if isinstance(targets, str) and re.fullmatch(targets, module):
        return True
    names = [*(targets if isinstance(targets, list) else []), *(options.get("modules_to_save") or [])]
    return any(fits(name, module) for name in names)


def inner_model(model: Any) -> PreTrainedModel:
    """The latent reasoner under a PEFT wrapper. Adapters stay in place."""
    return model if isinstance(model, LatentMixin) else model.get_base_model()


def thin_frozen(model: Any) -> None:
    """Keeps frozen linear weights of the base in bfloat16 if the model computes in it. Halves memory and saves casts.

    Tied embeddings, which are also looked up, and weights that ZeRO-3 has sharded stay as they are. So does what the
    adapter holds, which is saved, and which `rl.trainable` may freeze.
    """
    if model.latent_config.compute_dtype != "bfloat16":
        return
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    for name, module in model.named_modules():
        if type(module) in (nn.Linear, Conv1D) and not ADAPTED.search(name):
            weight = module.weight
            if not (weight.requires_grad or id(weight) in looked_up or is_sharded(weight)):
                weight.data = weight.data.to(torch.bfloat16)


def merge_adapter(
    base: str | Path,
    adapter: Path,
    section: LatentConfig,
    tokenizer: PreTrainedTokenizerBase,
    recipe: Recipe,
    supervised: bool = False,
    has_value_head: bool = False,
) -> None:
    """Replaces an adapter folder by the full model with the adapter merged into it, in float32.

    Args:
        base: Hub id or folder of the weights that the adapter was trained on. Where they were quantised for it, it is
            merged into them as they are there, in full precision.
        adapter: Its folder.
        section: Latent section of the trained model.
        supervised: The model has a supervision module.
        has_value_head: The model has a value head.

    Raises:
        MergeError: The saved model computes other logits than the model with the adapter. The adapter is kept.
    """
    derived = ("version", "token_ids", "compute_dtype")
    settings = {name: value for name, value in section.to_dict().items() if name not in derived}
    options: dict[str, Any] = {**recipe.model.loading_in_full, "dtype": section.compute_dtype, "supervised": supervised}
    fresh = load_reasoner(base, **options, **settings)
    if has_value_head:
        add_value_head(fresh.model)
    adapted = PeftModel.from_pretrained(fresh.model, str(adapter)).eval()
    expected = _probe(fresh.model)
    merged, target = adapted.merge_and_unload(), adapter.with_name(f"{adapter.name}.merged")
    shutil.rmtree(target, ignore_errors=True)
    merged.save_pretrained(target)
    tokenizer.save_pretrained(target)
    del fresh, adapted, merged
    difference = (_probe(load_reasoner(target, **options).model) - expected).norm() / expected.norm()
    if not difference.item() <= TOLERANCE:
        shutil.rmtree(target)
        kept = adapter.with_name("adapter")
        shutil.rmtree(kept, ignore_errors=True)  # of an earlier attempt
        adapter.rename(kept)
        raise MergeError(
            f"The adapter in {kept} cannot be merged: the merged model computes other logits (relative difference "
            f"{difference.item():.2g}). It is kept there as it was trained. Under another name, change model.lora: "
            "adapt linear layers alone."
        )
    shutil.rmtree(adapter)
    target.rename(adapter)


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """Logits (1, T, V) in full precision of one row of random tokens with two latents in it."""
    start, latent, end = model.latent_config.token_ids
    words = torch.randint(min(start, latent, end), (8,), generator=torch.Generator().manual_seed(0)).tolist()
    ids = torch.tensor([[*words[:4], start, latent, latent, end, *words[4:]]])
    with computing_exactly(model):
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
