"""The W&B runs of a recipe: settings from the recipe and the WANDB_* variables, and how a run is begun.

A key that the recipe sets overrides the variable. A key at its default takes the variable's value.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shlex
import time
from pathlib import Path
from typing import Any

from transformers.utils import strtobool

from ...data.errors import UserError, first_line
from ..recipe.schema import Recipe
from ..system.files import check_writable, write_whole
from .wandb_sweep import within_sweep
from .wandb_view import config, define_metrics, project, run_name, tags

logger = logging.getLogger(__name__)

# Seconds to wait for the server at the begin of a run, and at its end for the upload, with weights and without. W&B's
# own limits: 90, none.
BEGIN, END, END_OF_WEIGHTS = 20.0, 60.0, 1800.0
# Variables whose values a message may show. Others may hold a key or a password.
SHOWN = ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_INIT_TIMEOUT", "WANDB_FINISH_TIMEOUT")


class TrackingError(UserError):
    """A setting of W&B that cannot be used."""


def is_wanted(recipe: Recipe) -> bool:
    """Whether W&B is used: tracking.report_to names it, and no variable (WANDB_DISABLED, WANDB_MODE=disabled) stops it.

    Raises:
        TrackingError: WANDB_DISABLED is neither true nor false.
    """
    if "wandb" not in recipe.tracking.report_to:
        return False
    given = os.environ.get("WANDB_DISABLED") or "false"
    try:
        disabled = bool(strtobool(given))
    except ValueError as error:
        raise TrackingError(f"WANDB_DISABLED={given} must be true or false. Change the variable.") from error
    return not disabled and os.environ.get("WANDB_MODE") != "disabled"


def check_wandb(recipe: Recipe) -> None:
    """Checks the tracking section and the WANDB_* variables.

    Raises:
        UserError: W&B refuses one of them, or WANDB_DIR cannot be written to.
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
            f"W&B refuses {shown}: {found['msg']}. Change the variable, or set tracking.report_to=none."
        ) from None  # the cause shows the value, which may be a key
    try:
        wandb.Settings(project=project(recipe), entity=recipe.tracking.entity)
    except (ValidationError, wandb.errors.Error) as error:
        raise TrackingError(
            f"W&B refuses tracking.project={project(recipe)!r} or tracking.entity={recipe.tracking.entity!r}: "
            f"{' '.join(str(error).split())}. A team goes into tracking.entity alone."
        ) from error


def root(folder: Path) -> Path:
    """The folder of W&B's files: WANDB_DIR, else the run folder."""
    return Path(os.environ.get("WANDB_DIR") or folder).expanduser()


def token(folder: Path) -> str:
    """A random token, kept in the run folder. It tells runs of one name in several folders or machines apart in W&B."""
    path = folder / "wandb_id"
    found = path.read_bytes().decode(errors="replace") if path.is_file() else ""
    if not re.fullmatch("[0-9a-f]{8}", found):
        if path.is_file():
            logger.warning("%s cannot be read. W&B shows what follows as runs of their own.", path)
        found = secrets.token_hex(4)
        write_whole(path, found)
    return found


def start_wandb(recipe: Recipe, folder: Path, stage: str, offline: bool) -> Any:
    """Starts, or on resume continues, the W&B run of a stage.

    Args:
        offline: Do not try the server, because an earlier stage could not reach it.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    limits = {"init_timeout": BEGIN, "finish_timeout": END_OF_WEIGHTS if recipe.tracking.log_model else END}
    options: dict[str, Any] = {
        "project": project(recipe),
        "entity": recipe.tracking.entity or os.environ.get("WANDB_ENTITY"),
        "group": recipe.name,
        "job_type": stage,
        "name": run_name(recipe, stage),
        "tags": tags(recipe),
        "id": f"{recipe.name}-{stage}-{token(folder)}",
        "resume": "allow",
        "dir": str(root(folder)),
        "config": config(recipe, stage),
        "settings": {key: value for key, value in limits.items() if f"WANDB_{key}".upper() not in os.environ},
    }
    with within_sweep(recipe, stage):
        try:
            run = wandb.init(mode="offline" if offline else _mode(), **options)
        except wandb.errors.Error as error:
            logger.warning(
                "W&B could not start (%s). This run and the stages after it are recorded offline.", first_line(error)
            )
            wandb.teardown()  # W&B's service still holds the id of the failed run
            run = wandb.init(mode="offline", **options)
    if not run.offline:
        print(f"W&B {stage}: {run.url}")
    define_metrics(run)
    return run


def finish_wandb(run: Any, exit_code: int) -> bool:
    """Ends a W&B run. Returns whether all of it reached the server, or the disk of an offline run, in time."""
    limit = run.settings.finish_timeout or float("inf")
    started = time.monotonic()
    run.finish(exit_code=exit_code)
    in_time = run.offline or time.monotonic() - started < limit
    if not in_time:
        logger.warning(
            "W&B did not take all of %s in %.0f s. What is missing is in the run folder; to upload it: wandb sync %s. "
            "The stages after it are recorded offline.",
            run.name, limit, shlex.quote(str(Path(run.settings.sync_dir))),
        )  # fmt: skip
    return in_time


def _mode() -> Any:
    """WANDB_MODE, else online if there is a key, else offline."""
    import wandb

    asked = os.environ.get("WANDB_MODE")
    return asked or ("online" if wandb.login(prompt=False, verify=False) else "offline")


def print_wandb(recipe: Recipe, folder: Path) -> None:
    """Prints where the W&B runs are, or how to upload them. Prints nothing if there are none."""
    if not is_wanted(recipe):
        return
    place, runs = root(folder) / "wandb", f"run-*-{token(folder)}"
    offline, online = list(place.glob(f"offline-{runs}")), list(place.glob(runs))
    if offline:
        command = f"wandb sync {shlex.quote(str(place))}/offline-{runs}"
        print(f"W&B          {len(offline)} offline runs; to upload: {command}")
    elif online:
        print(f"W&B          project {project(recipe)}, group {recipe.name}")
