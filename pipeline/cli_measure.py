"""The commands that measure and sample what was trained, and those of rewards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import LatentFolder, Output, Overrides, RecipeFile, RunFolder, home, quiet

measure_app = typer.Typer()


@measure_app.command(name="eval")
def evaluate(
    folder: RunFolder,
    overrides: Overrides = None,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Measure the checkpoints of a run, or one checkpoint. Keys such as evaluate.num_samples=64 change how."""
    quiet()
    from .measure import evaluate_folder
    from .run import leave_processes

    evaluate_folder(folder, overrides or [], output, recipe)
    leave_processes()


@measure_app.command()
def compare(
    a: Annotated[
        Path, typer.Argument(help="Run folder, a folder in its samples/, or a file of samples.", callback=home)
    ],
    b: Annotated[Path, typer.Argument(help="The same for the second model.", callback=home)],
    k: Annotated[list[int] | None, typer.Option("-k", min=1, help="Of pass@k; repeat for more.")] = None,
    output: Output = None,
) -> None:
    """Compare two evaluated models on the same problems: paired differences, intervals and tests."""
    quiet()
    from .evaluate.compare import compare

    compare(a, b, sorted(set(k or [1, 4, 16])), output)


@measure_app.command()
def calibrate(
    folder: LatentFolder,
    overrides: Overrides = None,
    noise: Annotated[str, typer.Option(help="Kind of noise.")] = "gaussian",
    scale: Annotated[list[float] | None, typer.Option(help="A scale to try; repeat for more.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of the answers; 0: noise alone.")] = 0.0,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Measure pass@1 and pass@k against the scale of a noise, on held-out training problems, and propose one."""
    quiet()
    from .measure import SCALES, calibrate
    from .run import leave_processes

    calibrate(folder, overrides or [], noise, scale or SCALES, temperature, output, recipe)
    leave_processes()


@measure_app.command(name="reward-model")
def reward_model(
    context: typer.Context,
    folder: LatentFolder,
    overrides: Overrides = None,
    noise: Annotated[str, typer.Option(help="Noise on the latents, such as gaussian:0.3.")] = "gaussian:0.3",
    thoughts: Annotated[int, typer.Option(min=2, help="Thoughts of each problem.")] = 8,
    answers: Annotated[int, typer.Option(min=1, help="Answers after each thought, which judge it.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of those answers; 0 takes the most likely one.")] = 0.0,
    problems: Annotated[int, typer.Option(min=3, help="Training problems; two fifths of them are held out.")] = 6000,
    samples: Annotated[
        Path | None,
        typer.Option(help="Learn from the samples of this file, which an evaluation scored.", callback=home),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the problems.")] = 30,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="Of AdamW.")] = 1e-3,
    output: Annotated[
        Path | None, typer.Option(help="Folder to write; default: latent_reward beside it.", callback=home)
    ] = None,
    recipe: RecipeFile = None,
) -> None:
    """Train a latent reward model, which tells good thoughts from bad ones. Evaluate with evaluate.latent_reward."""
    if samples is not None:
        _refuse(
            context, ("noise", "thoughts", "answers", "temperature", "problems"), "--samples takes thoughts as drawn"
        )
    quiet()
    from .evaluate.settings import Setting
    from .measure import train_reward_model

    setting = Setting(thoughts * answers, noise, temperature, answers)
    train_reward_model(folder, overrides or [], setting, problems, epochs, learning_rate, output, recipe, samples)


def _refuse(context: typer.Context, names: tuple[str, ...], why: str) -> None:
    """Makes sure that none of these options was given.

    Raises:
        BadParameter: One was.
    """
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"{why}; remove --{name}.")


@measure_app.command()
def audit(
    folder: LatentFolder,
    overrides: Overrides = None,
    control: Annotated[
        Path | None, typer.Option(help="Checkpoint of a pause control, or a run with one.", callback=home)
    ] = None,
    problems: Annotated[int, typer.Option(min=2, help="Evaluation problems to answer.")] = 500,
    guess: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Accuracy of a guess.")] = None,
    output: Output = None,
    recipe: RecipeFile = None,
) -> None:
    """Ask whether a model's answers are made of its latents, and what its latents say."""
    quiet()
    from .audit import audit_folder
    from .run import leave_processes

    audit_folder(folder, overrides or [], control, problems, guess, output, recipe)
    leave_processes()


@measure_app.command()
def sample(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.", callback=home)],
    question: Annotated[str, typer.Argument(help="A question of the kind the model was trained for.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Samples.")] = 1,
    noise: Annotated[str | None, typer.Option(help="Noise on the latents, such as gaussian:0.3.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="Temperature of the answer; 0 is greedy.")] = 1.0,
    latents: Annotated[int | None, typer.Option(min=0, help="Latents; default: those of the checkpoint.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default: 64 or what fits.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same samples.")] = 0,
    plugin: Annotated[list[str] | None, typer.Option(help="A recipe's plugin; repeat for more.")] = None,
) -> None:
    """Sample answers from a checkpoint."""
    quiet()
    import torch

    from .loading import load_reasoner
    from .plugins import load_plugins

    load_plugins(plugin or [])
    reasoner = load_reasoner(model, trained=True)
    if torch.cuda.is_available():
        reasoner.model.to("cuda")
    (samples,) = reasoner.generate(
        [question],
        n=n,
        noise=noise,
        temperature=temperature,
        num_latents=latents,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    for text, logprob in zip(samples.texts, samples.logprobs, strict=True):
        typer.echo(f"{logprob:8.3f}  {' | '.join(text.split(chr(10))).strip(' |')}")


@measure_app.command(name="check-reward")
def check_reward_command(
    spec: Annotated[
        str,
        typer.Argument(
            help="package.module:function, path/to/file.py:function, a built-in name, or a model.", callback=home
        ),
    ],
    completion: Annotated[list[str] | None, typer.Option(help="A completion to score; repeat for more.")] = None,
    question: Annotated[str, typer.Option(help="The question, for rewards that read it.")] = "?",
    answer: Annotated[str, typer.Option(help="The right answer, for rewards that compare with it.")] = "72",
    latents: Annotated[int, typer.Option(help="Latents used, for rewards that charge for them.")] = 6,
    column: Annotated[list[str] | None, typer.Option(help="A further column as name=value; repeat for more.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which it is given up.")] = None,
    model: Annotated[bool, typer.Option("--model", help="It is a model: folder or hub id.")] = False,
    label: Annotated[int | None, typer.Option(min=0, help="Which of the model's labels counts.")] = None,
) -> None:
    """Run a reward function or model once on sample completions, and show rewards, range and time."""
    from ..rewards.checking import check_reward
    from ..rewards.errors import RewardError

    if label is not None and not model:
        raise RewardError("--label chooses an output of a reward model. Add --model, or remove it.")
    given = completion or [f"### {answer}", "### 0", "no answer at all", ""]
    row = {"question": question, "answer": answer, "steps": [], "num_latents": latents, **_columns(column or [])}
    reward: Any = spec
    if model:
        quiet()
        from .train.reward_model import RewardModel

        reward = RewardModel(spec, label)
    result = check_reward(reward, given, {name: [value] * len(given) for name, value in row.items()}, timeout)
    for text, value in zip(given, result.rewards, strict=True):
        typer.echo(f"{'None' if value is None else f'{value:g}':>8}  {text!r}")
    typer.echo(
        f"range {result.min} to {result.max}, mean {result.mean}, {result.none_count} None, {result.seconds:.4f} s"
    )


def _columns(given: list[str]) -> dict[str, Any]:
    """Columns from name=value; a value that is no JSON is a string."""
    from ..rewards.errors import RewardError

    columns: dict[str, Any] = {}
    for item in given:
        name, separator, text = item.partition("=")
        if not separator or not name:
            raise RewardError(f"--column {item!r} is not of the form name=value, for example level=3.")
        try:
            columns[name] = json.loads(text)
        except ValueError:
            columns[name] = text
        except RecursionError as error:
            raise RewardError(f"--column {name} is nested too deeply to be read. Give a flatter value.") from error
    return columns
