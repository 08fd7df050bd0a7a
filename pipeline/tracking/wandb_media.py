"""What a stage sends to W&B beside numbers: tables, histograms, images, artifacts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

logger = logging.getLogger(__name__)

PATIENCE = 10.0  # seconds that one of them may take


class WandbMedia:
    """Sends media of one W&B run.

    Numbers are queued and never wait. Media may ask the server, and one that hangs holds the training up for about 20
    seconds each time. So none is sent any more after one that failed or took longer than `PATIENCE`.

    Attributes:
        gave_up: No more are sent.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self.gave_up = False
        self._tables: dict[str, Any] = {}  # those that grow

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int, grows: bool = False) -> None:
        """Sends a table; if it grows, with the rows that were sent under its name before."""
        import wandb

        table = self._tables.get(name)
        if table is None:
            table = wandb.Table(columns=columns, log_mode="INCREMENTAL" if grows else "IMMUTABLE")
        if grows:
            self._tables[name] = table
        for row in rows:
            table.add_data(*row)
        self._send(name, lambda: self.run.log({name: table, "global_step": step}))

    def histograms(self, numbers: Mapping[str, Tensor], step: int) -> None:
        """Sends how numbers are distributed. Those that are not finite are left out."""
        import wandb

        finite = {name: values.float()[values.isfinite()].cpu().numpy() for name, values in numbers.items()}
        shown = {name: wandb.Histogram(values) for name, values in finite.items() if len(values)}
        if shown:
            self._send("histograms", lambda: self.run.log({**shown, "global_step": step}))

    def images(self, images: Mapping[str, Path], step: int) -> None:
        """Sends image files by name."""
        import wandb

        shown = {name: wandb.Image(str(path)) for name, path in images.items()}
        if shown:
            self._send("images", lambda: self.run.log({**shown, "global_step": step}))

    def artifact(
        self, name: str, kind: str, paths: Sequence[Path], metadata: Mapping[str, Any], used: str | None
    ) -> None:
        """Sends files, or the files of folders, as a versioned artifact.

        Args:
            used: The artifact that it was made of.
        """
        import wandb

        artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
        for path in paths:
            if path.is_dir():  # not copied into the home folder until it is sent: weights are large
                artifact.add_dir(str(path), policy="immutable")
            else:
                artifact.add_file(str(path))
        if used is not None:
            self._send(f"artifact {name}", lambda: self.run.use_artifact(f"{used}:latest"))
        self._send(f"artifact {name}", lambda: self.run.log_artifact(artifact))

    def _send(self, what: str, send: Callable[[], Any]) -> None:
        if self.gave_up:
            return
        started, failed = time.monotonic(), ""
        try:
            send()
        except Exception as error:  # of many kinds; none may end a run
            failed = f" ({(str(error).strip() or type(error).__name__).splitlines()[0].rstrip('.')})"
        seconds = time.monotonic() - started
        if failed or seconds > PATIENCE:
            self.gave_up = True
            logger.warning(
                "W&B %s %s%s. It gets no more tables, images and artifacts in this stage, and the stages after it are "
                "recorded offline.",
                "did not take" if failed else f"needed {seconds:.0f} s for", what, failed,
            )  # fmt: skip
