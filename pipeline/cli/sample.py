"""`neuralese sample`: draws answers of a checkpoint to one question."""

from __future__ import annotations

from typing import Annotated

import typer

from .terminal import home, quiet


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

    from ..model.load import load_reasoner
    from ..model.plugins import load_plugins

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
