"""Stage 2: the latent curriculum and its controls. One Trainer per curriculum stage, promoted by measured accuracy."""

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
from ...latent.noise.base import parse_noise
from ...model.load import load_reasoner
from ...model.reasoner import Reasoner
from ...problems.collate import Collator, StageDataset
from ...problems.encode import Format
from ...problems.schedule import TEXT, Stage
from ...recipe.load import RecipeError
from ...recipe.schema import Recipe
from ...system.files import write_whole
from ...tracking.tracker import TrackingCallback
from ..checkpoints import CheckpointError
from ..common import REPORT, Context, ProgressCallback, is_done, train_and_hand_over
from ..lora import lora_config
from .arms import ARMS, LATENT, latent_stages, most_steps, step_limits
from .limits import curriculum_args, items_per_step, set_rl_batch, stage_limits
from .promotion import Rules, best_visit, is_stopped, next_stage
from .trainer import Promotion, StageTrainer, save_optimizer

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
    """One training of one stage; a stage that the curriculum steps back to has several."""

    stage: Stage
    folder: Path
    base: str | Path
    steps_before: int
    max_steps: int
    optimizer_of: Path | None


class ArmTrainer:
    """Trains the stages of one arm in the order the schedule asks for."""

    def __init__(self, context: Context, base: str | Path, folder: Path, arm: str) -> None:
        self.context, self.recipe, self.base, self.folder, self.arm = context, context.recipe, base, folder, arm
        assert self.recipe.curriculum is not None
        self.section = self.recipe.curriculum
        latent = latent_stages(self.recipe, most_steps(context.train))
        self.stages = ARMS[arm].plan(latent)
        if ARMS[arm].as_rl:
            assert self.recipe.rl is not None
            self.limits = [self.recipe.rl.trainer["max_steps"]]
        else:
            self.limits = step_limits(stage_limits(self.recipe, latent, len(context.train)), self.stages)
        self.rules = rules_of(self.recipe, arm)

    def train(self) -> None:
        """Trains until the schedule is over and leaves `folder/final`, with the report of the whole."""
        reports: list[dict[str, Any]] = []
        visits: list[Visit] = []
        while (index := next_stage(reports, len(self.stages), self.rules)) is not None:
            visit = self._visit(index, reports, visits)
            if not is_done(visit.folder):
                self._train(visit)
            visits.append(visit)
            reports.append(read_report(visit.folder / "final" / REPORT))
        self._finish(visits, reports)

    def _visit(self, index: int, reports: Sequence[dict[str, Any]], visits: Sequence[Visit]) -> Visit:
        times = sum(report["stage"] == index for report in reports)
        name = f"stage-{index}" if times == 0 else f"stage-{index}-again-{times}"
        carried = visits[-1].folder / OPTIMIZER if visits and not self.section.reset_optimizer else None
        return Visit(
            stage=self.stages[index - 1],
            folder=self.folder / name,
            base=visits[-1].folder / "final" if visits else self.base,
            steps_before=sum(report["steps"] for report in reports),
            max_steps=self.limits[index - 1],
            optimizer_of=carried,
        )

    def _finish(self, visits: Sequence[Visit], reports: Sequence[dict[str, Any]]) -> None:
        """Links `final` to the weights to keep: those of the last stage, or of the best one where it was stopped."""
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
                link.unlink(missing_ok=True)  # of a stage that was deleted, and trained anew
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
            num_latents=visit.stage.num_latents,
            delimiters=latent.delimiters,
            stage=visit.stage.index,
            supervision=section.supervision if visit.stage.num_latents else "none",
            supervision_weight=section.supervision_weight,
            supervision_options=section.supervision_options if visit.stage.num_latents else {},
            stop_head=latent.stop_head and visit.stage.num_latents > 0,
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
        stop_early = visit.stage is self.stages[-1] and section.last_stage_at is not None and self.arm == LATENT
        return section.last_stage_at if stop_early else section.promote_at

    def _dataset(self, visit: Visit, reasoner: Reasoner, length: int, noisy: bool) -> StageDataset:
        return StageDataset(
            self.context.encoded,
            [TEXT, *self.stages],
            visit.stage.index,
            length,
            Format(reasoner.config, self.section.pad_latents, reasoner.tokenizer.eos_token_id),
            # Arms of one stage have no earlier one, and must not see what they are there to do without.
            self.section.mix_earlier if ARMS[self.arm].stages == "all" else 0.0,
            self.recipe.seed,
            noisy,
        )

    def _promotion(self, visit: Visit, reasoner: Reasoner) -> Promotion:
        section, settings = self.section, self.recipe.evaluate
        return Promotion(
            reasoner,
            self.context.held_out[: section.eval_problems],
            settings,
            visit.stage.num_latents,
            self._target(visit),
            section.eval_every,
            section.patience,
        )

    def _train(self, visit: Visit) -> None:
        """Trains one stage; its report holds steps, accuracy and whether it was promoted.

        Raises:
            RecipeError: Options that do not go together, or an optimizer's state to begin with that is not there.
        """
        if visit.optimizer_of is not None and not visit.optimizer_of.is_file():
            raise RecipeError(
                f"{visit.folder} begins with the optimizer's state of the stage before it, as reset_optimizer=false "
                f"asks, and that was removed when the curriculum was finished. Delete {self.folder} to train all of "
                "its stages anew."
            )
        recipe, section, stage = self.recipe, self.section, visit.stage
        is_last = stage is self.stages[-1]
        args = curriculum_args(recipe, visit.folder, is_last)
        if ARMS[self.arm].as_rl:
            set_rl_batch(args, recipe)
        args.max_steps = visit.max_steps
        set_seed(recipe.seed)  # what a stage draws must not depend on what ran before it in this process
        reasoner = self._load(visit)
        noise = parse_noise(section.noise) if is_last and self.arm == LATENT else None
        promotion = self._promotion(visit, reasoner)
        model: Any = reasoner.model
        lora = lora_config(recipe, reasoner)
        if lora is not None:
            model = get_peft_model(model, lora)
        trainer = StageTrainer(
            model=model,
            args=args,
            train_dataset=self._dataset(visit, reasoner, args.max_steps * items_per_step(args), noise is not None),
            data_collator=Collator(reasoner.tokenizer.pad_token_id),
            processing_class=reasoner.tokenizer,
            callbacks=[
                promotion,
                TrackingCallback(self.context.tracker, visit.steps_before, {"curriculum_stage": stage.index}),
                ProgressCallback(f"{self.folder.name} {stage.index}/{len(self.stages)}"),
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
        """How a stage ended. Also keeps what the next stage takes over."""
        stage, steps, is_main = visit.stage, trainer.state.global_step, PartialState().is_main_process
        if not self.section.reset_optimizer and is_main:
            save_optimizer(trainer.optimizer, visit.folder / OPTIMIZER)
        earlier = None
        if self.rules.step_back_at is not None and stage.index > 1:
            earlier = promotion.measure(self.stages[stage.index - 2].num_latents)
        if promotion.target is not None and not promotion.is_promoted and is_main:
            logger.warning(
                "Stage %d of %s ended after %d of at most %d steps with held-out accuracy %.3f, below %.2f.",
                stage.index, self.folder.name, steps, visit.max_steps, promotion.accuracy, promotion.target,
            )  # fmt: skip
        return {
            "stage": stage.index,
            "steps": steps,
            "accuracy": promotion.accuracy,
            "target": promotion.target,
            "promoted": promotion.is_promoted,
            "earlier": earlier,
        }


def train_curriculum(context: Context, base: str | Path, folder: Path, arm: str = LATENT) -> None:
    """Trains all stages of an arm in order and leaves `folder/final`."""
    ArmTrainer(context, base, folder, arm).train()


def read_report(file: Path) -> dict[str, Any]:
    """The report of a curriculum, or of one of its stages.

    Raises:
        CheckpointError: It is not whole.
    """
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise CheckpointError(
            f"{file} is whole no more ({reason(error)}). Nothing was changed. Delete it and {file.parent / 'final'}, "
            "and --resume writes both anew; the stages are kept."
        ) from error


def stopped_summary(folder: Path) -> dict[str, Any] | None:
    """The report of a curriculum that was stopped below a threshold; None for one that was not."""
    file = folder / REPORT
    summary = read_report(file) if file.is_file() else {"stopped": False}
    return summary if summary["stopped"] else None


def why_stopped(summary: dict[str, Any]) -> str:
    """What to tell the user of a curriculum that was stopped."""
    last, kept = summary["visits"][-1], summary["kept"]
    return (
        f"The curriculum was stopped: stage {last['stage']} ended after {last['steps']} steps with held-out accuracy "
        f"{last['accuracy']:.3f}, below curriculum.promote_at={last['target']}. Kept: "
        f"{'the weights of ' + kept if kept else 'the weights it started from, since no stage was promoted'}. Under "
        "another name, give the stages more steps, a lower threshold or a supervision, or set "
        "curriculum.at_limit=continue to go on regardless."
    )
