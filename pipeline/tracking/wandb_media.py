"""What a stage sends to W&B beside numbers: tables, histograms, images, artifacts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.errors import first_line

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that one of them may take


class WandbMedia:
    """Sends media of one W&B run. What cannot be sent is named in a warning and left out; no error comes out of here.

    Numbers are queued and never wait. Media may ask the server, and one that hangs holds the training up for about 20
    seconds each time. So none is sent any more after one that the server failed at or that took longer than `PATIENCE`.

    Attributes:
        gave_up: No more are sent.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.gave_up = False
        self._left_out: set[str] = set()  # what cannot be sent, whatever the server does
        self._tables: dict[str, Any] = {}  # those that grow

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int, grows: bool = False) -> None:
        """Sends a table; if it grows, with the rows that were sent under its name before."""
        self._send(name, lambda: self.run.log({name: self._table(name, columns, rows, grows), "global_step": step}))

    def _table(self, name: str, columns: list[str], rows: list[list[Any]], grows: bool) -> Any:
        import wandb

        table = self._tables.get(name)
        if table is None:
            mode = "INCREMENTAL" if grows else "IMMUTABLE"
            table = wandb.Table(columns=columns, log_mode=mode, allow_mixed_types=True)
        if grows:
            self._tables[name] = table
        for row in rows:
            table.add_data(*row)
        return table

    def histograms(self, numbers: Mapping[str, Tensor], step: int) -> None:
        """Sends how numbers are distributed. Those that are not finite are left out."""
        for name, values in numbers.items():
            # In float64, where numbers that are all but equal still have bins between them.
            finite = values.double()[values.isfinite()].cpu().numpy()
            if len(finite):
                self._send(name, lambda name=name, finite=finite: self._histogram(name, finite, step))  # type: ignore[misc]

    def _histogram(self, name: str, values: Any, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Histogram(values), "global_step": step})

    def images(self, images: Mapping[str, Path], step: int) -> None:
        """Sends image files by name."""
        if images:
            self._send("images", lambda: self._images(images, step))

    def _images(self, images: Mapping[str, Path], step: int) -> None:
        import wandb

        shown = {name: wandb.Image(str(path)) for name, path in images.items()}
        self.run.log({**shown, "global_step": step})

    def artifact(
        self, name: str, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any], used: str | None
    ) -> None:
        """Sends files, or the files of folders, as a versioned artifact.

        Args:
            used: The artifact that it was made of. Where the server does not know it, the link alone is left out.
        """
        if used is not None:
            self._send(f"artifact {used}", lambda: self.run.use_artifact(f"{used}:latest"), is_needed=False)
        self._send(f"artifact {name}", lambda: self._artifact(name, kind, paths, metadata))

    def _artifact(self, name: str, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any]) -> None:
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
        for path in paths:
            if path.is_dir():  # not copied into the home folder until it is sent: weights are large
                artifact.add_dir(str(path), policy="immutable")
            else:
                artifact.add_file(str(path))
        self.run.log_artifact(artifact)

    def _send(self, what: str, send: Callable[[], Any], is_needed: bool = True) -> None:
        if self.gave_up or what in self._left_out:
            return
        started = time.monotonic()
        try:
            send()
            took = time.monotonic() - started
            failed = f"needed {took:.0f} s for {what}" if took > PATIENCE else ""
        except (TypeError, ValueError, OSError) as error:  # of what is to be sent, or of the disk
            self._leave_out(what, error)
            return
        except Exception as error:  # of the server, of many kinds
            if not is_needed and time.monotonic() - started <= PATIENCE:
                self._leave_out(what, error)
                return
            failed = f"did not take {what} ({first_line(error)})"
        if failed:
            self.gave_up = True
            logger.warning(
                "W&B %s. It gets no more tables, images and artifacts in this stage, and the stages after it are "
                "recorded offline.",
                failed,
            )

    def _leave_out(self, what: str, error: Exception) -> None:
        self._left_out.add(what)
        logger.warning("W&B did not take %s (%s). This stage goes on without it.", what, first_line(error))
