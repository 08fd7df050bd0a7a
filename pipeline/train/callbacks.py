"""Callbacks of the Trainers of all stages: which checkpoints are saved, their file modes, how long other processes are
waited for, and the progress bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

from ..system.compat import set_collective_timeout
from ..system.files import follow_umask


class NoLastCheckpointCallback(TrainerCallback):
    """Saves no checkpoint at the last optimizer step: a resume from it would train past the end. `final/` follows."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_training_stop or state.global_step >= state.max_steps:
            control.should_save = False


class UmaskCallback(TrainerCallback):
    """Gives the weights of every checkpoint the file mode that the umask asks for."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            follow_umask(Path(args.output_dir) / f"checkpoint-{state.global_step}")


class TimeoutCallback(TrainerCallback):
    """Waits for other processes as long as `ddp_timeout` says also in the groups that DeepSpeed makes for itself.

    The processes have joined before there is a Trainer, so that its own use of the key comes too late.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        set_collective_timeout(args.ddp_timeout)


class ProgressCallback(TrainerCallback):
    """One progress bar for a Trainer, on the main process. The caller of `train` stops it, also after an error."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )  # fmt: skip

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.start()
            self.task = self.progress.add_task(self.title, total=state.max_steps, completed=state.global_step, note="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        shown = [(key, (logs or {}).get(key)) for key in ("loss", "reward", "accuracy")]
        notes = [f"{key} {value:.3f}" for key, value in shown if isinstance(value, float)]
        rates = [(unit, (logs or {}).get(f"throughput/{unit}_per_second")) for unit in ("rollouts", "tokens")]
        notes += [f"{value:.0f} {unit}/s" for unit, value in rates if value is not None][:1]
        note = "  ".join(notes)
        if state.is_world_process_zero and note:
            self.progress.update(self.task, note=note)
