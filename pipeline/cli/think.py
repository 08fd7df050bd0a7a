"""`neuralese think`: prints what can be read in a thought, pass by pass, and the answer after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from .terminal import home, quiet

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from ..model.thoughts_in_words import BlockReading, ThoughtInWords

READ_BY = {
    "step_tokens": "the model's head; each latent was trained to say its token (supervision step_tokens)",
    "lens": "the model's head as a lens; the latents were never trained to say anything",
    "decoder": "the model's head as a lens, and the auxiliary decoder (supervision decoder)",
}
# Probabilities from which on a token has a colour.
COLOURS = ((0.9, "green"), (0.5, "yellow"), (0.0, "red"))


def think(
    model: Annotated[str, typer.Argument(help="Checkpoint folder or hub id.", callback=home)],
    questions: Annotated[list[str], typer.Argument(help="Questions of the kind the model was trained for.")],
    noise: Annotated[str | None, typer.Option(help="Noise on the latents, such as gaussian:0.3.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer; default: 64 or what fits.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Of the noise.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each question.")] = False,
    plugin: Annotated[list[str] | None, typer.Option(help="A recipe's plugin; repeat for more.")] = None,
) -> None:
    """Print what can be read in the thoughts of a checkpoint."""
    quiet()
    import torch
    from rich.console import Console

    from ..latent.latentize import has_supervision
    from ..model import thoughts_in_words
    from ..model.load import load_reasoner
    from ..model.plugins import load_plugins

    load_plugins(plugin or [])
    reasoner = load_reasoner(model, trained=True, supervised=has_supervision(model))
    if torch.cuda.is_available():
        reasoner.model.to("cuda")
    found = thoughts_in_words.think(reasoner, questions, noise, seed, max_new_tokens)
    console = Console(highlight=False, soft_wrap=True)
    for thought in found:
        if as_json:
            typer.echo(json.dumps(thought.to_dict()))
        else:
            _print(thought, console)


def _print(thought: ThoughtInWords, console: Console) -> None:
    from rich.markup import escape

    console.print(f"[bold]{escape(thought.question)}[/]")
    console.print(f"read by {READ_BY[thought.read_by]}")
    for number, passes in enumerate(thought.blocks):
        label = f"block {number + 1}"
        for reading in passes:
            console.print(_line(label, reading))
            label = " " * len(label)
        if thought.decoded is not None:
            console.print(f"{label}  decoder  {escape(thought.decoded[number])}")
    console.print(f"answer   {escape(' | '.join(thought.answer.splitlines()))}  ({thought.logprob:.3f} nats)")
    console.print("[green]from 0.9[/] [yellow]from 0.5[/] [red]below[/]: probability; at the end of a line their mean")


def _line(label: str, reading: BlockReading) -> Text:
    from rich.text import Text

    at = "" if reading.loop is None else f"  loop {reading.loop}"
    line = Text(f"{label}{at}  ")
    for token, share in zip(reading.tokens, reading.probabilities, strict=True):
        colour = next(colour for least, colour in COLOURS if share >= least)
        line.append(token.replace("\n", "⏎").strip() + " ", style=colour)
    line.append(f" {sum(reading.probabilities) / max(len(reading.probabilities), 1):.2f}", style="dim")
    return line
