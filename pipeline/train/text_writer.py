"""The model of a run that writes steps as text: it says how usual a text is that is read in a thought."""

from __future__ import annotations

from pathlib import Path

from accelerate import PartialState

from ..model.load import load_reasoner
from ..model.reasoner import Reasoner
from ..recipe.schema import ModelSection
from .hand_over import is_done


def load_writer(run: Path, model: ModelSection) -> Reasoner | None:
    """The checkpoint of the stage sft of a run folder, on this process's device. None: the stage is not finished."""
    if not is_done(run / "sft"):
        return None
    writer = load_reasoner(run / "sft" / "final", **model.loading)
    writer.model.to(PartialState().device).eval()
    return writer
