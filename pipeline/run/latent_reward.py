"""`neuralese reward-model`: trains a latent reward model for a checkpoint."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import PartialState

from ..latent.noise import parse_noise
from ..model.answer_limits import check_checkpoints_fit
from ..model.load import load_reasoner
from ..problems.load import draw_training, load_all, load_evaluation
from ..recipe.schema import Recipe
from ..scoring.latent_reward_training import draw_thoughts, held_out, kept_thoughts, train_latent_reward
from ..scoring.problem_samples import Sampled
from ..scoring.sample_files import digest
from ..scoring.sampling_setting import Setting
from ..system.activity import doing
from ..system.files import check_writable, write_whole
from .finished_stages import find_checkpoints
from .folder import RunError

logger = logging.getLogger(__name__)


def train_reward_model(
    folder: Path,
    overrides: list[str],
    setting: Setting,
    count: int,
    epochs: int,
    learning_rate: float,
    output: Path | None,
    recipe_path: Path | None,
    samples: Path | None = None,
) -> None:
    """Trains a latent reward model for the last checkpoint with latents, on training problems, and writes it.

    Of several processes one does this (`processes.alone`).

    Args:
        setting: How its thoughts are drawn.
        count: Training problems to draw thoughts for.
        samples: A file of scored samples of this checkpoint to learn from instead of new ones.

    Raises:
        UserError: No checkpoint with latents, samples of another one, or nothing to learn from.
    """
    recipe, checkpoints = find_checkpoints(folder, overrides, recipe_path)
    parse_noise(setting.noise)
    name = next((stage for stage in ("rl", "curriculum", *checkpoints) if stage in checkpoints), "")
    target = output or (folder if (folder / "recipe.yaml").is_file() else folder.parent) / "latent_reward"
    if target.exists():
        raise RunError(f"{target} exists. Move it away, or name another folder with --output.")
    check_writable(target, "--output")
    reasoner = load_reasoner(checkpoints[name], **recipe.model.loading)
    reasoner.model.to(PartialState().device)
    if samples is None:
        problems = draw_training(load_all(recipe).train, count, recipe.seed)
        check_checkpoints_fit(recipe, {name: checkpoints[name]}, problems)
        thoughts = draw_thoughts(reasoner, problems, setting, recipe.evaluate, recipe.seed)
    else:
        drawn, rows = _read_own_samples(samples, checkpoints[name])
        thoughts = kept_thoughts(reasoner, rows, drawn, recipe.evaluate)
        _warn_of_evaluation(rows, recipe)
    with doing("training the latent reward model"):
        head, report = train_latent_reward(thoughts, epochs, learning_rate, recipe.seed)
    head.config.checkpoint = digest(checkpoints[name])
    head.save_pretrained(target)
    write_whole(target / "report.json", json.dumps(asdict(report)))
    held = held_out(len(thoughts.right))
    print(f"Checkpoint   {checkpoints[name]}")
    print(f"Learned from {report.mixed} problems with right and wrong thoughts, epoch {report.epoch} kept")
    print(
        f"Held out     {held} problems that chose nothing: chosen of {len(thoughts.right[0])} thoughts "
        f"{report.chosen:.3f}, any thought {report.mean:.3f}, the best of them {report.oracle:.3f}"
    )
    print(f"Saved in     {target}")


def _read_own_samples(file: Path, checkpoint: Path) -> tuple[Setting, list[Sampled]]:
    """Reads a file of samples: the setting they were drawn with, and the samples.

    Raises:
        RunError: They are not there, or not of this checkpoint.
    """
    if not file.is_file():
        raise RunError(f"There is no file {file}. Name one that an evaluation left, such as RUN/samples/rl/NAME.jsonl.")
    head, rows = Sampled.read(file)
    if head.get("checkpoint") != digest(checkpoint):
        raise RunError(
            f"The samples in {file} are not of {checkpoint} as it is now. Evaluate it again, or name the checkpoint "
            "they are of."
        )
    return Setting.from_dict(head["setting"]), rows


def _warn_of_evaluation(rows: Sequence[Sampled], recipe: Recipe) -> None:
    """Warns if samples to learn from are of evaluation problems."""
    asked = {problem.question for problem in load_evaluation(recipe)}
    known = sum(row.question in asked for row in rows)
    if known:
        logger.warning(
            "%d of the %d problems learned from are evaluation problems of the recipe. Measure what this model chooses "
            "on others.",
            known,
            len(rows),
        )
