"""Rewards and scorers that fail, or that judge what they cannot read."""

import json

from .day import TINY, BadDay, Scene

MINE = "{folder}/mine.py"
RESUMES = "finished stages and checkpoints; --resume goes on"
NOTHING_LOST = "everything: it is a warning"
# A short training by rewards alone, with what a row adds.
SHORT = [
    "output_dir={folder}", "tracking.wandb=false", "sft=null", "curriculum=null", "rl.noise=null",
    "evaluate.problems=2", "evaluate.sampling=[]", "rl.trainer.logging_steps=1",
]  # fmt: skip
CODE = """
import asyncio, sys, time
import numpy, torch

def level(prompts, completions, **columns):
    return [columns["level"][0]]

def leaves(completions, **columns):
    sys.exit(3)

def interrupted(completions, **columns):
    raise KeyboardInterrupt

def sleeps(completions, **columns):
    time.sleep(60)

def too_few(completions, **columns):
    return [1.0]

def none(completions, **columns):
    return [None] * len(completions)

def later(completions, **columns):
    async def rewards():
        return [1.0] * len(completions)
    return rewards()

def breaks(completions, **columns):
    yield 1.0
    raise ValueError("the second one")

def says(completions, log_metric, **columns):
    log_metric("near", "quite")
    return [1.0] * len(completions)

def notes(completions, log_extra, **columns):
    log_extra("note", ["one"])
    return [1.0] * len(completions)

def edits(completions, answer, steps, **columns):
    rewards = [float(len(text)) for text in completions]
    answer[:], completions[:] = ["changed"] * len(answer), ["changed"] * len(answer)
    for row in steps:
        row.clear()
    return rewards

def finds_all(completions, answer, steps, **columns):
    assert "changed" not in answer and "changed" not in completions and all(steps), "someone changed the data"
    return [float(len(text)) for text in completions]

def gives(value):
    return lambda completions, **columns: [value] * len(completions)

huge, large, nan, text = gives(10 ** 400), gives(1e300), gives(float("nan")), gives("1")
whole, truth, number, tensor = gives(1), gives(True), gives(numpy.float32(1)), gives(torch.tensor(1.0))
array = lambda completions, **columns: numpy.array([text == "" for text in completions])
"""


def mine(scene: Scene) -> None:
    (scene.folder / "mine.py").write_text(CODE)


def called(what: str, function: str, sees: str, *options: str, code: int = 2) -> BadDay:
    """A reward function of the user's, called by check-reward."""
    return BadDay(what, ["check-reward", f"{MINE}:{function}", *options], sees, code=code, before=mine)


def judged(what: str, reward: str, answer: str, completion: str, given: str) -> BadDay:
    """A completion that a built-in reward judges: no fault, if it is right about it."""
    command = ["check-reward", reward, "--answer", answer, "--completion", f"### {completion}"]
    return BadDay(what, command, f"{given} {f'### {completion}'!r}", kept="–", code=0)


def trained(what: str, sees: str, *options: str, kept: str = NOTHING_LOST, code: int = 0) -> BadDay:
    return BadDay(what, ["train", TINY, *SHORT, *options], sees, kept=kept, code=code, before=mine)


def answers(*values: str):
    """Sets the scene: 40 problems with these answers in turn."""

    def write(scene: Scene) -> None:
        rows = [{"question": f"{i} ?", "steps": ["a"], "answer": values[i % len(values)]} for i in range(40)]
        (scene.folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write


def spoiled(how):
    """Sets the scene: a reward model in the folder `judge`, and something wrong with it."""

    def build(scene: Scene) -> None:
        from test_rewards_model import classifier

        folder = scene.folder / "judge"
        classifier(folder, "text")
        how(folder)

    return build


def _quantize(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "awq"}}))


def _truncate(folder):
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])


OWN_DATA = [
    "data.train={path: '{folder}/mine.jsonl'}", "data.eval={path: '{folder}/mine.jsonl'}", "data.keep_overlap=true"
]  # fmt: skip
JUDGE = "rl.rewards=[{model: '{folder}/judge'}]"
NUMERIC = "evaluate.scorer=numeric_match"

DAYS = [
    called("a reward that raises", "level", "failed with KeyError: 'level'. The first completion it was given"),
    called("a reward that calls `sys.exit`", "leaves", "failed with SystemExit: 3."),
    called("a generator as reward, which raises on its way", "breaks", "failed with ValueError: the second one."),
    called("a reward that takes too long", "sleeps", "given up after its timeout of 0.1 s", "--timeout", "0.1"),
    called("a reward of 10 to the power of 400", "huge", "Rewards must lie between -1e+12 and 1e+12"),
    called("a reward of 1e300", "large", "returned float 1e+300 at index 0, for the completion '### 72'."),
    called("a reward of NaN", "nan", "returned float nan at index 0, for the completion '### 72'."),
    called("a reward in text", "text", "returned str '1' at index 0"),
    called("a tensor as reward", "tensor", "returned Tensor tensor(1.) at index 0"),
    called("one reward for four completions", "too_few", "returned 1 rewards for 4 completions"),
    called("a plain reward that returns a coroutine", "later", "Define it with `async def`"),
    called("a reward that logs a text as a metric", "says", "called log_metric('near', 'quite'). Give a name and"),
    called("a reward that logs one note for four completions", "notes", "one value for each of the 4 completions"),
    called("integers as rewards", "whole", "range 1.0 to 1.0", code=0),
    called("booleans as rewards", "truth", "range 1.0 to 1.0", code=0),
    called("numbers of numpy as rewards", "number", "range 1.0 to 1.0", code=0),
    called("a numpy array of booleans as rewards", "array", "range 0.0 to 1.0, mean 0.25", code=0),
    called("a reward that gives None to all completions", "none", "4 None", code=0),
    called("a reward of another name", "levle", "the module has no 'levle'. Did you mean 'level'?"),
    BadDay("a column nested 100,000 deep", ["check-reward", "exact_match", "--column", "x=" + "[" * 100_000],
           "--column x is nested too deeply to be read"),
    BadDay("an evaluation of one token for each answer", ["eval", "{finished}", "evaluate.max_new_tokens=1"],
           "evaluate.max_new_tokens=1 cuts 20 of 20 measured answers", kept="the run"),
    BadDay("an evaluation by a scorer that cannot read the answers",
           ["eval", "{finished}", "data.eval={path: '{folder}/mine.jsonl'}", NUMERIC],
           "numeric_match can read none of 40 evaluation answers", kept="the run", before=answers("yes", "no")),
    BadDay("a mistyped built-in reward", ["check-reward", "exact_mach"], "Did you mean 'exact_match'?"),
    BadDay("a weight of 1e300", ["check", TINY, "rl.rewards=[{function: exact_match, weight: 1.0e+300}]"],
           "rl.rewards.0.weight: Input should be less than or equal to 1000000"),
    judged(r"`\frac{3}{4}` where the answer is 3/4", "numeric_match", "3/4", r"\frac{3}{4}", "1"),
    judged(r"`\frac{3}{4}` where the answer is 4", "numeric_match", "4", r"\frac{3}{4}", "0"),
    judged("`(1,2)` where the answer is 12", "numeric_match", "12", "(1,2)", "0"),
    judged("`19, 46 and 82` for `21, 36 and 82`", "numeric_match", "21, 36 and 82", "19, 46 and 82", "0"),
    judged("`**18**` by `math_verify`", "math_verify", "18", "**18**", "1"),
    judged("`1e3` by `math_verify`", "math_verify", "1000", "1e3", "1"),
    judged("`3 or 5` where the answer is 5, by `math_verify`", "math_verify", "5", "3 or 5", "0"),
    BadDay("yes and no as answers, which the scorer `numeric_match` cannot read", ["check", TINY, *OWN_DATA, NUMERIC],
           "numeric_match can read none of 40 evaluation answers, the first of which is 'yes'",
           before=answers("yes", "no")),
    BadDay("some answers that the scorer cannot read", ["check", TINY, *OWN_DATA, NUMERIC],
           "numeric_match cannot read 20 of 40 evaluation answers, the first of which is 'yes'", kept=NOTHING_LOST,
           code=0, before=answers("yes", "2")),
    BadDay("some answers that a reward of RL cannot read",
           ["check", TINY, *OWN_DATA, "rl.rewards=[{function: numeric_match}]"],
           "training answers, the first of which is 'yes': their completions get no reward", kept=NOTHING_LOST, code=0,
           before=answers("yes", "2")),
    BadDay("a scorer that charges for latents", ["check", TINY, "evaluate.scorer=latent_cost"],
           "'latent_cost' received no column 'num_latents'"),
    BadDay("rollouts of one token", ["check", TINY, "rl.trainer.max_completion_length=1"],
           "rl.trainer.max_completion_length=1 cuts 184 of 184 training answers, the longest of which has 3 tokens"),
    BadDay("answers of one token in the evaluation", ["check", TINY, "evaluate.max_new_tokens=1"],
           "evaluate.max_new_tokens=1 cuts 36 of 36 measured answers, the longest of which has 5 tokens"),
    BadDay("rollouts without room for the end token", ["check", TINY, "rl.trainer.max_completion_length=2"],
           "rl.trainer.max_completion_length=2 cuts 184 of 184 training answers", kept=NOTHING_LOST, code=0),
    trained("a training without any reward", "Alarm unscored at RL step 1: every reward was None for all completions",
            f"rl.rewards=[{{function: '{MINE}:none'}}]", "rl.trainer.max_steps=1"),
    trained("a reward that edits what it was given", "Checkpoint",
            f"rl.rewards=[{{function: '{MINE}:edits'}}, {{function: '{MINE}:finds_all'}}]", "rl.trainer.max_steps=1",
            kept="the data of the other rewards: each gets copies"),
    trained("a reward of 1e300 in training", "returned float 1e+300 at index 0",
            f"rl.rewards=[{{function: '{MINE}:large'}}]", kept=RESUMES, code=2),
    trained("an interrupt in a reward", "Interrupted while training rl. The same command with --resume goes on",
            f"rl.rewards=[{{function: '{MINE}:interrupted'}}]", kept=RESUMES, code=130),
    BadDay("a quantized reward model", ["check", TINY, JUDGE], "is quantized, and quantized models are not loaded",
           before=spoiled(_quantize)),
    BadDay("a reward model with a truncated file of weights", ["check-reward", "--model", "{folder}/judge"],
           "cannot be loaded: SafetensorError", before=spoiled(_truncate)),
    BadDay("a reward model that is not there", ["check", TINY, JUDGE], "judge' cannot be loaded: OSError"),
]  # fmt: skip
