"""Prints how much memory a process of N takes with models of 1, 8 and 32 billion weights, as docs/cluster.md shows it.

    python scripts/memory_table.py --processes 8 --checkpointing

The models are built without weights, in the shapes of Llama 3.2 1B, Llama 3.1 8B and Qwen 2.5 32B, with their
vocabularies. Nothing is downloaded. The rows are made up: see `ROW`.
"""

import argparse
import tempfile
from pathlib import Path

import yaml
from rich.console import Console
from transformers import AutoConfig

from neuralese.data.chain import ChainTask, generate
from neuralese.pipeline.cli.memory_output import memory_table
from neuralese.pipeline.model.build import build_tokenizer
from neuralese.pipeline.problems.encode import Encoded
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.train.memory.estimate import estimates
from neuralese.pipeline.train.memory.inputs import Inputs

LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192}
SHAPES = {
    "1B": LLAMA
    | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    | {"head_dim": 64, "tie_word_embeddings": True},
    "8B": LLAMA | {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32},
    "32B": LLAMA
    | {"model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64}
    | {"num_attention_heads": 40, "vocab_size": 152064},
}
# Every problem: tokens of the question, steps, tokens of each, tokens of the answer.
ROW = (128, 6, 20, 8)
ROWS, ANSWER = 8, 64  # of a micro-batch, which RL draws as one group; most tokens of a rollout's answer
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=8, help="default: 8")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in all stages")
    parser.add_argument("--lora", type=int, help="rank of a LoRA; default: all weights are trained")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--device", type=int, default=80, help="GiB of the device; default: 80")
    args = parser.parse_args()
    if args.processes < 1:
        parser.error(f"--processes {args.processes} must be at least 1")
    problems = generate(ChainTask(modulus=7, num_operations=ROW[1]), 1, "train", 0)
    tokenizer = build_tokenizer(problems)
    question, steps, step, answer = ROW
    encoded = [Encoded([0] * question, [[0] * step] * steps, [0] * answer, 0, "the problem")]
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            recipe = load_recipe(written(Path(folder), name, args.checkpointing, args.lora), [])
            inputs = Inputs(recipe, AutoConfig.for_model(**SHAPES[name]), tokenizer, encoded)
            table = memory_table(list(estimates(inputs, problems)), args.processes, False, args.device * GIB)
            table.title = f"{name}: {table.title}"
            Console().print(table, highlight=False)


def written(folder: Path, name: str, checkpointing: bool, lora: int | None) -> Path:
    """The recipe for a model, as a file."""
    trainer = {"per_device_train_batch_size": ROWS, "gradient_checkpointing": checkpointing, "max_steps": 1}
    rl = {"num_generations": ROWS, "max_completion_length": ANSWER}
    recipe = {
        "name": name,
        "output_dir": str(folder / "outputs"),
        "model": {"config": SHAPES[name], "dtype": "bfloat16", "lora": {"r": lora} if lora else None},
        "data": {key: {"task": "chain", "size": 1} for key in ("train", "eval")},
        "sft": {"trainer": trainer},
        "curriculum": {"steps_per_level": ["all"], "trainer": trainer},
        "rl": {"trainer": trainer | rl},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


if __name__ == "__main__":
    main()
