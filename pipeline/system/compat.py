"""Private parts of other libraries, in one place: what is used, and the release that each use was checked with.

Another release may change any of them without notice. `tests/test_compat.py` checks each, and pyproject.toml bounds
the releases of these libraries from above. To move to a newer release: raise the bound and `CHECKED`, run the tests,
and mend what fails here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState
from torch import Tensor
from torch._dynamo import config as dynamo_config
from torch._dynamo.eval_frame import OptimizedModule
from torch._subclasses.fake_tensor import FakeTensor as FakeTensor
from torch._subclasses.fake_tensor import FakeTensorMode as FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode as TorchDispatchMode
from transformers.integrations.gguf import GGUF_CONFIG_ARCHS, read_gguf_metadata
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
from transformers.utils import cached_file
from trl.trainer import grpo_trainer
from trl.trainer import utils as trl_utils

# Releases that the private parts were checked with.
CHECKED = {"torch": "2.13", "transformers": "5.23", "trl": "1.16", "accelerate": "1.15", "deepspeed": "0.19"}

# TRL: methods of GRPOTrainer that LatentTrainer and LatentGRPOTrainer override, with the arguments that they count on.
GRPO_HOOKS = {
    "_tokenize_prompts": ("prompts",),
    "_generate_single_turn": ("prompt_ids",),
    "_calculate_rewards": ("inputs", "prompts", "completions", "completion_ids_list"),
    "_generate_and_score_completions": ("inputs",),
    "_get_per_token_logps_and_entropies": (
        "model",
        "input_ids",
        "attention_mask",
        "logits_to_keep",
        "batch_size",
        "compute_entropy",
    ),
    "_compute_loss": ("model", "inputs"),
    "_prepare_inputs": ("generation_batch",),
}

# TRL: the logits of a position that its fused head computes at once.
TILE_WIDTH: int = trl_utils._CHUNKED_LOGPROB_CHUNK_SIZE

# Transformers: methods of Trainer that TimedTrainer overrides.
TRAINER_HOOKS = {"_clip_grad_norm": ("model",), "training_step": ("model", "inputs", "num_items_in_batch")}


@contextmanager
def shuffling_by(shuffle: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """TRL: orders the rows of a generation batch by a function of the batch, before it is split into micro-batches."""
    theirs = grpo_trainer.shuffle_sequence_dict
    grpo_trainer.shuffle_sequence_dict = shuffle
    try:
        yield
    finally:
        grpo_trainer.shuffle_sequence_dict = theirs


def replace_prompts(prompt_ids: list[list[int]], others: Sequence[list[int]]) -> None:
    """TRL: gives rollouts other prompts, in the list of prompts that it handed to `_generate_single_turn`.

    It takes that list, as it stands afterwards, for the prompts of the batch.
    """
    prompt_ids[:] = others


def logged_metric(trainer: Any, name: str) -> list[float]:
    """TRL: the values of a training metric since the latest log, of which the next log takes the mean."""
    return trainer._metrics["train"][name]


def asks_old_logps(trainer: Any) -> bool:
    """TRL: whether it asks for log-probs under the weights that drew, before it asks for any other of a draw."""
    updates = trainer.args.steps_per_generation * trainer.num_iterations
    return trainer.args.gradient_accumulation_steps % updates != 0


def forget_metric(trainer: Any, name: str) -> None:
    """TRL: leaves a training metric out of the next log."""
    trainer._metrics["train"].pop(name, None)


def latest_completions(trainer: Any) -> Any:
    """TRL: prompts, completions, rewards and advantages of the latest rollouts, as its own table of completions."""
    return trainer._logs


def rollout_tokenizer(trainer: Any) -> Any:
    """TRL: the tokenizer that pads rollouts."""
    return trainer._tokenizer


def reset_accelerator_state() -> None:
    """Accelerate: forgets the process-wide settings that one Trainer made."""
    AcceleratorState._reset_state()


def attention_implementation(config: Any) -> str:
    """Transformers: which attention a model with this config runs."""
    return config._attn_implementation


def keeps_a_recurrent_state(model: Any) -> bool:
    """Transformers: whether a model carries a state besides keys and values (Mamba and its like)."""
    return getattr(model, "_is_stateful", False)


def find_file(name: str, file: str, required: bool = False) -> str | None:
    """Transformers: the path of a file of a checkpoint folder or hub id; None where it has none.

    Raises:
        OSError: It has none, and the file is required.
    """
    return cached_file(name, file, _raise_exceptions_for_missing_entries=required)


def gguf_architectures() -> list[str]:
    """Transformers: the architectures that it reads from GGUF files, by their names there."""
    in_files = {"gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
    every_file_has = {"general", "tokenizer"}
    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - every_file_has
    return sorted(in_files.get(name, name) for name in known)


def read_gguf_architecture(path: str) -> str:
    """Transformers: the architecture of the model in a GGUF file."""
    metadata, _ = read_gguf_metadata(path)
    return metadata["general.architecture"]


def checkpoints_reentrantly(layer: Any) -> bool:
    """Transformers: whether gradient checkpointing of a layer is of the reentrant kind."""
    return layer._gradient_checkpointing_func.keywords.get("use_reentrant", True)


@contextmanager
def checkpointing_with_cache(layers: Sequence[Any]) -> Iterator[None]:
    """Transformers: leaves checkpointed layers their cache, which they drop unless they say that they can keep it."""
    for layer in layers:
        layer._can_checkpoint_with_cache = True
    try:
        yield
    finally:
        for layer in layers:
            del layer._can_checkpoint_with_cache


def is_compiled(model: Any) -> bool:
    """torch: whether a compiler runs a model or parts of it."""
    return torch.compiler.is_compiling() or any(
        isinstance(module, OptimizedModule) or module._compiled_call_impl is not None for module in model.modules()
    )


def compile_once_for_all_layers() -> None:
    """torch: a compiler takes the number of a layer, which all its layers differ in, for a variable."""
    dynamo_config.allow_unspec_int_on_nn_module = True


def set_collective_timeout(seconds: float) -> None:
    """torch: how long this process waits for others in every collective, in all groups of processes there are."""
    for group in dist.distributed_c10d._world.pg_map:
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)


def is_sharded(weight: Tensor) -> bool:
    """DeepSpeed: whether ZeRO-3 holds a weight in shards, be they gathered at the moment or not."""
    return hasattr(weight, "ds_id")


def num_weights(parameter: Any) -> int:
    """DeepSpeed: the numbers in a parameter, also where ZeRO-3 holds it in shards."""
    return parameter.ds_numel if is_sharded(parameter) else parameter.numel()


def is_gathered(weight: Any) -> bool:
    """DeepSpeed: whether a sharded weight is whole at the moment."""
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    return weight.ds_status == ZeroParamStatus.AVAILABLE


def gather_weight(weight: Any) -> None:
    """DeepSpeed: makes a sharded weight whole, on all processes together."""
    weight.all_gather()


def release_weight(weight: Any) -> None:
    """DeepSpeed: leaves this process its shard of a weight that was whole."""
    weight.partition()


def forget_order(engine: Any) -> None:
    """DeepSpeed: ZeRO-3 forgets the order in which it gathers weights, and learns it again in the next training step.

    It gathers ahead by that order, which must be one on all processes.
    """
    coordinator = engine.optimizer.parameter_offload.get_param_coordinator()
    if not coordinator.is_invalid_trace():
        coordinator._invalidate_trace()


# torch: reads a number from a tensor.
READ_NUMBER = torch.ops.aten._local_scalar_dense.default


def storage_key(tensor: Tensor) -> int:
    """torch: what tells the storage of a tensor from all others that live."""
    return tensor.untyped_storage()._cdata
