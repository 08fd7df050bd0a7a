"""`neuralese check-reward`: runs a reward on a few completions."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from .terminal import home, quiet


def check_reward(
    spec: Annotated[
        str,
        typer.Argument(
            help="package.module:function, path/to/file.py:function, a built-in name, or a model.", callback=home
        ),
    ],
    completion: Annotated[list[str] | None, typer.Option(help="A completion to judge; repeat for more.")] = None,
    question: Annotated[str, typer.Option(help="The question, for rewards that read it.")] = "?",
    answer: Annotated[str, typer.Option(help="The right answer, for rewards that compare with it.")] = "72",
    latents: Annotated[int, typer.Option(help="Latents used, for rewards that charge for them.")] = 6,
    column: Annotated[list[str] | None, typer.Option(help="A further column as name=value; repeat for more.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which it is given up.")] = None,
    model: Annotated[bool, typer.Option("--model", help="It is a model: folder or hub id.")] = False,
    label: Annotated[int | None, typer.Option(min=0, help="Which of the model's labels counts.")] = None,
) -> None:
    """Run a reward function or model once on sample completions, and show rewards, range and time."""
    from ...data.answer_formats import HASH, answer_format_of
    from ...rewards.checking import check_reward as judge
    from ...rewards.errors import RewardError

    if label is not None and not model:
        raise RewardError("--label chooses an output of a reward model. Add --model, or remove it.")
    columns = _columns(column or [])
    written = answer_format_of(columns.get("answer_format", HASH.name)).written
    given = completion or [written(answer), written("0"), "no answer at all", ""]
    row = {"question": question, "answer": answer, "steps": [], "num_latents": latents, **columns}
    reward: Any = spec
    if model:
        quiet()
        from ..scoring.recipe_rewards import RewardModel

        reward = RewardModel(spec, label)
    result = judge(reward, given, {name: [value] * len(given) for name, value in row.items()}, timeout)
    for text, value in zip(given, result.rewards, strict=True):
        typer.echo(f"{'None' if value is None else f'{value:g}':>8}  {text!r}")
    typer.echo(
        f"range {result.min} to {result.max}, mean {result.mean}, {result.none_count} None, {result.seconds:.4f} s"
    )


def _columns(given: list[str]) -> dict[str, Any]:
    """Columns from name=value. A value is read as JSON; if it is no JSON, it is a string."""
    from ...rewards.errors import RewardError

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
