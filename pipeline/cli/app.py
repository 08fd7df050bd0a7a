"""The `neuralese` command: its commands by name, each run under `guard`, which turns errors into messages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from .audit import audit
from .calibrate import calibrate
from .check import check
from .check_reward import check_reward
from .compare import compare
from .errors import guard
from .evaluate import evaluate
from .launch import launch
from .recipes import recipes_app
from .reward_model import reward_model
from .sample import sample
from .think import think
from .train import train
from .wandb_layout import wandb_layout

DEBUG = "--debug"
COMMANDS: dict[str, Callable[..., None]] = {
    "train": train,
    "launch": launch,
    "check": check,
    "eval": evaluate,
    "compare": compare,
    "calibrate": calibrate,
    "reward-model": reward_model,
    "audit": audit,
    "sample": sample,
    "think": think,
    "check-reward": check_reward,
    "wandb-layout": wandb_layout,
}
app = typer.Typer(
    help="Turn a base language model into a latent reasoner.",
    epilog=f"With {DEBUG} every command shows the stack trace of an error.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for name, command in COMMANDS.items():
    app.command(name)(command)
app.add_typer(recipes_app, name="recipes")


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line. Errors are shown as one paragraph; `--debug` adds the stack trace."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = given[: given.index("--")] if "--" in given else given
    rest = given[len(options) :]
    return guard(partial(app, [item for item in options if item != DEBUG] + rest), debug=DEBUG in options)
