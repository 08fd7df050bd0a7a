"""The stage `curriculum` and its controls: one Trainer for each level, promoted by measured accuracy."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import set_seed
from peft import get_peft_model
from transformers import Trainer

from ....data.errors import reason
from ...latent.latentize import measure_embedding_rms
from ...latent.noise import parse_noise
from ...model.load import load_reasoner
from ...model.reasoner import Reasoner
from ...problems.collate import Collator, LevelDataset
from ...problems.encode import Format
from ...problems.schedule import TEXT, Level
from ...recipe.load import RecipeError
from ...recipe.schema import Recipe
from ...system.files import write_whole
from ...tracking.tracker import TrackingCallback
from ..checkpoints import CheckpointError
from ..common import REPORT, Context, ProgressCallback, is_done, train_and_hand_over
from ..lora import lora_config
from .arms import ARMS, LATENT, latent_levels, most_steps, step_limits
from .limits import curriculum_args, items_per_step, level_limits, set_rl_batch
from .promotion import Rules, best_visit, is_stopped, next_level
from .trainer import LevelTrainer, Promotion, save_optimizer

logger = logging.getLogger(__name__)
OPTIMIZER = "optimizer.safetensors"


def rules_of(recipe: Recipe, arm: str) -> Rules:
    """When an arm steps back or stops. A control gets every step it can use, whatever it has reached."""
    section = recipe.curriculum
    assert section is not None
    if arm != LATENT:
        return Rules(stop_at_limit=False)
    return Rules(section.at_limit == "stop", section.step_back_at, section.max_step_backs)


@dataclass
class Visit:
    """One training of one level; a level that the curriculum steps back to has several."""

    level: Level
    folder: Path
    base: str | Path
    steps_before: int
    max_steps: int
    optimizer_of: Path | None


class ArmTrainer:
    """Trains the levels of one arm in the order the schedule asks for."""

    def __init__(self, context: Context, base: str | Path, folder: Path, arm: str) -> None:
        self.context, self.recipe, self.base, self.folder, self.arm = context, context.recipe, base, folder, arm
        assert self.recipe.curriculum is not None
        self.section = self.recipe.curriculum
        latent = latent_levels(self.recipe, most_steps(context.train))
        self.levels = ARMS[arm].plan(latent)
        if ARMS[arm].as_rl:
            assert self.recipe.rl is not None
            self.limits = [self.recipe.rl.trainer["max_steps"]]
        else:
            self.limits = step_limits(level_limits(self.recipe, latent, len(context.train)), self.levels)
        self.rules = rules_of(self.recipe, arm)

    def train(self) -> None:
        """Trains until the schedule is over and leaves `folder/final`, with the report of the whole."""
        _rename_old_levels(self.folder)
        reports: list[dict[str, Any]] = []
        visits: list[Visit] = []
        while (index := next_level(reports, len(self.levels), self.rules)) is not None:
            visit = self._visit(index, reports, visits)
            if not is_done(visit.folder):
                self._train(visit)
            visits.append(visit)
            reports.append(read_report(visit.folder / "final" / REPORT))
        self._finish(visits, reports)

    def _visit(self, index: int, reports: Sequence[dict[str, Any]], visits: Sequence[Visit]) -> Visit:
        times = sum(report["level"] == index for report in reports)
        name = f"level-{index}" if times == 0 else f"level-{index}-again-{times}"
        carried = visits[-1].folder / OPTIMIZER if visits and not self.section.reset_optimizer else None
        return Visit(
            level=self.levels[index - 1],
            folder=self.folder / name,
            base=visits[-1].folder / "final" if visits else self.base,
            steps_before=sum(report["steps"] for report in reports),
            max_steps=self.limits[index - 1],
            optimizer_of=carried,
        )

    def _finish(self, visits: Sequence[Visit], reports: Sequence[dict[str, Any]]) -> None:
        """Links `final` to the weights to keep: those of the last level, or of the best one where it was stopped."""
        state = PartialState()
        stopped = is_stopped(reports, self.rules)
        best = best_visit(reports) if stopped else len(visits) - 1
        if state.is_main_process and not is_done(self.folder):
            for visit in visits:
                (visit.folder / OPTIMIZER).unlink(missing_ok=True)
            kept = visits[best].folder.name if best is not None else None
            summary = {"stopped": stopped, "kept": kept, "visits": reports}
            write_whole(self.folder / REPORT, json.dumps(summary, indent=1))
            if kept is None:
                model = self.recipe.model
                started = load_reasoner(self.base, trust_remote_code=model.trust_remote_code, dtype=model.dtype)
                started.save_pretrained(self.folder / "final.partial")
                (self.folder / "final.partial").rename(self.folder / "final")
            else:
                link = self.folder / "final"
                link.unlink(missing_ok=True)  # of a level that was deleted, and trained anew
                link.symlink_to(Path(kept) / "final")
        state.wait_for_everyone()

    def _load(self, visit: Visit) -> Reasoner:
        latent, section = self.recipe.latent, self.section
        reasoner = load_reasoner(
            visit.base,
            supervised=True,
            trust_remote_code=self.recipe.model.trust_remote_code,
            dtype=self.recipe.model.dtype,
            thought_source=ARMS[self.arm].thought_source or latent.thought_source,
            thought_options={} if ARMS[self.arm].thought_source else latent.thought_options,
            latents_per_step=latent.latents_per_step,
            num_latents=visit.level.num_latents,
            delimiters=latent.delimiters,
            level=visit.level.index,
            supervision=section.supervision if visit.level.num_latents else "none",
            supervision_weight=section.supervision_weight,
            supervision_options=section.supervision_options if visit.level.num_latents else {},
            stop_head=latent.stop_head and visit.level.num_latents > 0,
            jacobi_sweeps=latent.jacobi_sweeps,
            backprop_steps=latent.backprop_steps,
        )
        measure_embedding_rms(reasoner.model)
        return reasoner

    def _target(self, visit: Visit) -> float | None:
        section = self.section
        if ARMS[self.arm].as_rl:
            return None
        # A control gets every step it can use: it is never stopped short to leave RL something to do.
        stop_early = visit.level is self.levels[-1] and section.last_level_at is not None and self.arm == LATENT
        return section.last_level_at if stop_early else section.promote_at

    def _dataset(self, visit: Visit, reasoner: Reasoner, length: int, noisy: bool) -> LevelDataset:
        return LevelDataset(
            self.context.encoded,
            [TEXT, *self.levels],
            visit.level.index,
            length,
            Format(reasoner.config, self.section.pad_latents, reasoner.tokenizer.eos_token_id),
            # Arms of one level have no earlier one, and must not see what they are there to do without.
            self.section.mix_earlier if ARMS[self.arm].levels == "all" else 0.0,
            self.recipe.seed,
            noisy,
        )

    def _promotion(self, visit: Visit, reasoner: Reasoner) -> Promotion:
        section, settings = self.section, self.recipe.evaluate
        return Promotion(
            reasoner,
            self.context.held_out[: section.eval_problems],
            settings,
            visit.level.num_latents,
            self._target(visit),
            section.eval_every,
            section.patience,
        )

    def _train(self, visit: Visit) -> None:
        """Trains one level; its report holds steps, accuracy and whether it was promoted.

        Raises:
            RecipeError: Options that do not go together, or an optimizer's state to begin with that is not there.
        """
        if visit.optimizer_of is not None and not visit.optimizer_of.is_file():
            raise RecipeError(
                f"{visit.folder} begins with the optimizer's state of the level before it, as reset_optimizer=false "
                f"asks, and that was removed when the curriculum was finished. Delete {self.folder} to train all of "
                "its levels anew."
            )
        recipe, section, level = self.recipe, self.section, visit.level
        is_last = level is self.levels[-1]
        args = curriculum_args(recipe, visit.folder, is_last)
        if ARMS[self.arm].as_rl:
            set_rl_batch(args, recipe)
        args.max_steps = visit.max_steps
        set_seed(recipe.seed)  # what a level draws must not depend on what ran before it in this process
        reasoner = self._load(visit)
        noise = parse_noise(section.noise) if is_last and self.arm == LATENT else None
        promotion = self._promotion(visit, reasoner)
        model: Any = reasoner.model
        lora = lora_config(recipe, reasoner)
        if lora is not None:
            model = get_peft_model(model, lora)
        trainer = LevelTrainer(
            model=model,
            args=args,
            train_dataset=self._dataset(visit, reasoner, args.max_steps * items_per_step(args), noise is not None),
            data_collator=Collator(reasoner.tokenizer.pad_token_id),
            processing_class=reasoner.tokenizer,
            callbacks=[
                promotion,
                TrackingCallback(self.context.tracker, visit.steps_before, {"curriculum_level": level.index}),
                ProgressCallback(f"{self.folder.name} {level.index}/{len(self.levels)}"),
            ],
            noise=noise,
            noise_ramp=section.noise_ramp,
            optimizer_of=visit.optimizer_of,
        )
        promotion.trainer = trainer
        if not section.reset_optimizer and trainer.is_deepspeed_enabled:
            raise RecipeError("curriculum.reset_optimizer=false does not work with DeepSpeed. Remove it.")

        def report(trainer: Trainer) -> dict[str, Any]:
            return self._report(trainer, promotion, visit)

        train_and_hand_over(trainer, self.context, reasoner, visit.base, visit.folder, report)

    def _report(self, trainer: Trainer, promotion: Promotion, visit: Visit) -> dict[str, Any]:
        """How a level ended. Also keeps what the next level takes over."""
        level, steps, is_main = visit.level, trainer.state.global_step, PartialState().is_main_process
        if not self.section.reset_optimizer and is_main:
            save_optimizer(trainer.optimizer, visit.folder / OPTIMIZER)
        earlier = None
        if self.rules.step_back_at is not None and level.index > 1:
            earlier = promotion.measure(self.levels[level.index - 2].num_latents)
        if promotion.target is not None and not promotion.is_promoted and is_main:
            logger.warning(
                "Level %d of %s ended after %d of at most %d steps with held-out accuracy %.3f, below %.2f.",
                level.index, self.folder.name, steps, visit.max_steps, promotion.accuracy, promotion.target,
            )  # fmt: skip
        return {
            "level": level.index,
            "steps": steps,
            "accuracy": promotion.accuracy,
            "target": promotion.target,
            "promoted": promotion.is_promoted,
            "earlier": earlier,
        }


def train_curriculum(context: Context, base: str | Path, folder: Path, arm: str = LATENT) -> None:
    """Trains all levels of an arm in order and leaves `folder/final`."""
    ArmTrainer(context, base, folder, arm).train()


def read_report(file: Path) -> dict[str, Any]:
    """The report of a curriculum, or of one of its levels.

    Raises:
        CheckpointError: It is not whole.
    """
    try:
        return _with_new_names(json.loads(file.read_bytes()))
    except ValueError as error:
        raise CheckpointError(
            f"{file} is whole no more ({reason(error)}). Nothing was changed. Delete it and {file.parent / 'final'}, "
            "and --resume writes both anew; the levels are kept."
        ) from error


def _with_new_names(report: dict[str, Any]) -> dict[str, Any]:
    """A report in the words of this version: up to 0.1 a level was called a stage."""
    named = {"level" if key == "stage" else key: value for key, value in report.items()}
    if "visits" in named:
        named["visits"] = [_with_new_names(visit) for visit in named["visits"]]
    return named


def _rename_old_levels(folder: Path) -> None:
    """Gives the folders of a half-trained curriculum of version 0.1, `stage-1` and so on, their names of today."""
    if PartialState().is_main_process:
        for old in folder.glob("stage-*"):
            old.rename(folder / old.name.replace("stage", "level", 1))
    PartialState().wait_for_everyone()


def stopped_summary(folder: Path) -> dict[str, Any] | None:
    """The report of a curriculum that was stopped below a threshold; None for one that was not."""
    file = folder / REPORT
    summary = read_report(file) if file.is_file() else {"stopped": False}
    return summary if summary["stopped"] else None


def why_stopped(summary: dict[str, Any]) -> str:
    """What to tell the user of a curriculum that was stopped."""
    last, kept = summary["visits"][-1], summary["kept"]
    return (
        f"The curriculum was stopped: level {last['level']} ended after {last['steps']} steps with held-out accuracy "
        f"{last['accuracy']:.3f}, below curriculum.promote_at={last['target']}. Kept: "
        f"{'the weights of ' + kept if kept else 'the weights it started from, since no level was promoted'}. Under "
        "another name, give the levels more steps, a lower threshold or a supervision, or set "
        "curriculum.at_limit=continue to go on regardless."
    )
