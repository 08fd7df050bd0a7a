"""The W&B runs of a pipeline: what the recipe and the WANDB_* variables ask for, and how a run is begun.

A recipe's key comes before a variable; a key that is left at its default takes the variable's value.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
from pathlib import Path
from typing import Any

from transformers.utils import strtobool

from ...data.errors import UserError
from ..recipe.schema import Recipe
from ..system.files import check_writable, write_whole

logger = logging.getLogger(__name__)

# Seconds that the server may take to begin a run, and to take what is left of it at its end. W&B's own are 90 and any.
BEGIN, END = 20.0, 60.0
PROJECT = "neuralese"
# Variables whose values a message may show. Others may be a key, or an address with a password in it.
SHOWN = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT")


class TrackingError(UserError):
    """A setting of W&B that cannot be used."""


def is_wanted(recipe: Recipe) -> bool:
    """Whether W&B is used: tracking.wandb says so, and neither WANDB_DISABLED nor WANDB_MODE=disabled turns it off.

    Raises:
        TrackingError: WANDB_DISABLED is neither true nor false.
    """
    if not recipe.tracking.wandb:
        return False
    given = os.environ.get("WANDB_DISABLED") or "false"
    try:
        disabled = bool(strtobool(given))
    except ValueError as error:
        raise TrackingError(f"WANDB_DISABLED={given} must be true or false. Change the variable.") from error
    return not disabled and os.environ.get("WANDB_MODE") != "disabled"


def check_wandb(recipe: Recipe) -> None:
    """Checks the names of the recipe and the WANDB_* variables of the environment.

    Raises:
        UserError: One that W&B refuses, or a WANDB_DIR that cannot be written to.
    """
    if not is_wanted(recipe):
        return
    import wandb
    from pydantic import ValidationError

    if os.environ.get("WANDB_DIR"):
        check_writable(root(recipe.folder), "WANDB_DIR")
    try:
        wandb.Settings().update_from_env_vars(dict(os.environ))
    except ValidationError as error:
        found = error.errors()[0]
        name = f"WANDB_{found['loc'][0]}".upper()
        shown = f"{name}={os.environ.get(name)}" if name in SHOWN else name
        raise TrackingError(
            f"W&B refuses {shown}: {found['msg']}. Change the variable, or set tracking.wandb=false."
        ) from None  # the cause shows the value, which may be a key
    try:
        wandb.Settings(project=project(recipe), entity=recipe.tracking.entity)
    except (ValidationError, wandb.errors.Error) as error:
        raise TrackingError(
            f"W&B refuses tracking.project={project(recipe)!r} or tracking.entity={recipe.tracking.entity!r}: "
            f"{' '.join(str(error).split())}. A team goes into tracking.entity alone."
        ) from error


def project(recipe: Recipe) -> str:
    """The W&B project: that of the recipe, else WANDB_PROJECT, else ours."""
    return recipe.tracking.project or os.environ.get("WANDB_PROJECT") or PROJECT


def root(folder: Path) -> Path:
    """Where W&B keeps its files: WANDB_DIR, else the run folder."""
    return Path(os.environ.get("WANDB_DIR") or folder).expanduser()


def token(folder: Path) -> str:
    """A token of the run folder: runs of one name in other folders or on other machines stay apart in W&B."""
    path = folder / "wandb_id"
    found = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    if not re.fullmatch("[0-9a-f]{8}", found):
        if path.is_file():
            logger.warning("%s cannot be read. W&B shows what follows as runs of their own.", path)
        found = secrets.token_hex(4)
        write_whole(path, found)
    return found


def start_wandb(recipe: Recipe, folder: Path, stage: str, offline: bool) -> Any:
    """Begins, or goes on with, the W&B run of a stage.

    Args:
        offline: Do not try to reach the server, which an earlier stage could not reach.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    limits = {"init_timeout": BEGIN, "finish_timeout": END}
    options: dict[str, Any] = {
        "project": project(recipe),
        "entity": recipe.tracking.entity or os.environ.get("WANDB_ENTITY"),
        "group": recipe.name,
        "job_type": stage,
        "name": f"{recipe.name}-{stage}",
        "id": f"{recipe.name}-{stage}-{token(folder)}",
        "resume": "allow",
        "dir": str(root(folder)),
        "config": recipe.model_dump(mode="json"),
        "settings": {key: value for key, value in limits.items() if f"WANDB_{key}".upper() not in os.environ},
    }
    try:
        run = wandb.init(mode="offline" if offline else _mode(), **options)
    except wandb.errors.Error as error:
        logger.warning(
            "W&B could not start (%s). This run and the stages after it are recorded offline.",
            str(error).splitlines()[0].rstrip("."),
        )
        wandb.teardown()  # its service still holds the id of the run that failed
        run = wandb.init(mode="offline", **options)
    if not run.offline:
        print(f"W&B {stage}: {run.url}")
    run.define_metric("global_step")
    run.define_metric("*", step_metric="global_step")
    return run


def _mode() -> Any:
    """WANDB_MODE, else online where there is a key."""
    import wandb

    asked = os.environ.get("WANDB_MODE")
    return asked or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def print_wandb(recipe: Recipe, folder: Path) -> None:
    """Says where the W&B runs are, or how to upload them. Says nothing where there are none."""
    if not is_wanted(recipe):
        return
    place, runs = root(folder) / "wandb", f"run-*-{token(folder)}"
    offline, online = list(place.glob(f"offline-{runs}")), list(place.glob(runs))
    if offline:
        command = f"wandb sync {shlex.quote(str(place))}/offline-{runs}"
        print(f"W&B          {len(offline)} offline runs; to upload: {command}")
    elif online:
        print(f"W&B          project {project(recipe)}, group {recipe.name}")
