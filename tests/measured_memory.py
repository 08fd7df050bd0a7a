"""Trains the stages of small recipes and prints the bytes that torch allocated at most, as its profiler saw them.

    python tests/measured_memory.py FOLDER '[["model.dtype=bfloat16"], ...]'

Every list of keys is a recipe over `RECIPE`. A stage trains in a process of its own, so that nothing of another one is
freed in it. Prints a list of objects, one for each recipe: part of a stage -> bytes.
"""

import contextlib
import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from neuralese.pipeline.model import load
from neuralese.pipeline.problems.load import load_all
from neuralese.pipeline.recipe.load import load_recipe
from neuralese.pipeline.run.plan import plan
from neuralese.pipeline.run.train import Context, _build_base, checkpoint_of, encode_checked, load_tokenizer
from neuralese.pipeline.tracking.tracker import Tracker
from neuralese.pipeline.train.clock import Clock

RECIPE = """
name: measured
model:
  config: {model_type: llama, hidden_size: 192, intermediate_size: 512, num_hidden_layers: 3, num_attention_heads: 4,
    num_key_value_heads: 2, max_position_embeddings: 128}
data:
  train: {task: chain, size: 600, options: {modulus: 199, num_operations: 4}}
  eval: {task: chain, size: 16, options: {modulus: 199, num_operations: 4}}
sft: {trainer: {max_steps: 2, per_device_train_batch_size: 24, save_strategy: "no"}}
curriculum:
  steps_per_level: [all]
  at_limit: continue
  promote_at: null
  eval_problems: 8
  trainer: {max_steps: 2, per_device_train_batch_size: 24, save_strategy: "no"}
rl:
  noise: gaussian:0.3
  trainer: {max_steps: 2, per_device_train_batch_size: 24, save_strategy: "no", num_generations: 8,
    max_completion_length: 12}
tracking: {report_to: none}
"""
# Parts that a Clock measures -> what estimates call them.
PARTS = {
    ("sft", "forward_backward"): "sft",
    ("curriculum", "forward_backward"): "curriculum 1",
    ("rl", "replay"): "rl, update",
    ("rl", "rollout"): "rl, draw",
}


def main(folder, recipes):
    Clock.part = marked(Clock.part)
    load._load_model = apart(load._load_model)
    found = []
    for place, keys in enumerate(recipes):
        path = folder / f"{place}.yaml"
        path.write_text(RECIPE)
        recipe = load_recipe(path, [f"output_dir={folder / str(place)}", *keys])
        recipe.folder.mkdir(parents=True)
        problems = load_all(recipe)
        _build_base(recipe, [*problems.held_out, *problems.train])
        config, tokenizer = load_tokenizer(checkpoint_of(recipe, "base"))
        recipe, encoded = encode_checked(recipe, problems, tokenizer, config)
        tracker = Tracker(recipe, recipe.folder, True)
        context = Context(
            recipe, recipe.folder, problems.train, encoded, problems.held_out, problems.evaluation, tracker, False
        )
        peaks = {}
        for stage in plan(recipe):
            tracker.start(stage.name)
            base = checkpoint_of(recipe, "curriculum" if stage.name == "rl" else "base")
            peaks |= in_a_process(partial(peaks_of, stage, context, base))
        found.append(peaks)
    print(json.dumps(found))


def apart(loading):
    """Loading that gives each weight memory of its own, as on a GPU. On a CPU all are one mapping of their file, which
    stays as long as one of them does.
    """

    def load_apart(*args):
        model = loading(*args)
        for weight in model.parameters():
            weight.data = weight.data.clone()
        return model

    return load_apart


def marked(part):
    @contextlib.contextmanager
    def marking(self, name):
        with record_function(f"part {name}"), part(self, name):
            yield

    return marking


def in_a_process(function):
    """What a function returns that runs in a fork of this process."""
    reads, writes = os.pipe()
    if os.fork() == 0:
        os.write(writes, json.dumps(function()).encode())
        os._exit(0)
    _, status = os.wait()
    assert status == 0
    return json.loads(os.read(reads, 2**16))


def peaks_of(stage, context, base):
    """Bytes allocated at most inside each part of a stage, from its second optimizer step on or in its only one."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        stage.train(context, base, context.folder / stage.name)
    events = prof.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = torch.tensor([size for _, size in changes]).cumsum(0)
    times = torch.tensor([time for time, _ in changes])
    peaks = {}
    for event in events:
        name = PARTS.get((stage.name, event.name().removeprefix("part ")))
        if name is None or not event.name().startswith("part "):
            continue
        inside = (times >= event.start_ns()) & (times <= event.start_ns() + event.duration_ns())
        before = int((times < event.start_ns()).sum()) - 1
        peaks[name] = max(peaks.get(name, 0), int(held[inside].max()), int(held[before]))
    return peaks


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
