"""The audit of a latent reasoner: whether its answers are made of its latents, and what the latents say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from ....data.errors import UserError
from ....data.problem import Problem
from ...latent.thoughts import THOUGHT_SOURCES
from ...model.reading import text_as_latents
from ...model.reasoner import Reasoner
from ...recipe.schema import EvaluateSection
from ...statistics.intervals import Mean
from .counterfactual import Counterfactual, measure_counterfactual
from .gates import ControlComparison, Gate, judge, verdict
from .interventions import (
    AS_TEXT,
    Answers,
    Effect,
    answer,
    interventions,
    measure_effect,
)
from .probes import Probe, probe_steps
from .readings import (
    Place,
    Reading,
    decoder_accuracy,
    lens,
    measure_places,
    read,
)
from .text_chain import TextThought, measure_text, thought_length

READ = 10  # problems whose thoughts are put into words
PAUSE = ("pause", "pause_multi")


class AuditError(UserError):
    """A checkpoint that cannot be audited, or a control that is none."""


@dataclass(frozen=True)
class Subject:
    """A checkpoint to audit or to compare with.

    Attributes:
        name: Where it comes from.
    """

    name: str
    reasoner: Reasoner


@dataclass(frozen=True)
class Question:
    """What an audit measures on.

    Attributes:
        problems: For interventions, counterfactuals and controls.
        probed: For probes.
        floor: Accuracy of a guess.
        changed: `problems` with one thing changed each, so that the answer is another; None for one that cannot be.
    """

    problems: Sequence[Problem]
    probed: Sequence[Problem]
    floor: float
    changed: Sequence[Problem | None]


@dataclass(frozen=True)
class Audit:
    """Everything an audit found. Its fields are keys of audit.json.

    Attributes:
        problems: Number of problems that were answered.
        accuracy: Greedy accuracy of the model with its own latents.
        written: Mean tokens that it writes between its latents and the answer. Above 0 after a curriculum that was
            stopped, which leaves some steps in text.
        effects: Each intervention on all latents of a thought.
        readable: Accuracy with the text that is read in the latents in their place, over that with the latents; None:
            the model answers no problem.
        faithful: Share of problems with the same answer from the text as from the latents.
        information: Bits that the latents say about the steps that they stand for, summed over the steps; None: no
            latent stands for a step that was probed.
        decoder: Share of steps that the auxiliary decoder reads; None: the checkpoint has none.
        text: The same for a chain of thought in text; None: no checkpoint writes one.
    """

    checkpoint: str
    num_latents: int
    problems: int
    floor: float
    accuracy: Mean
    written: float
    effects: list[Effect]
    counterfactual: Counterfactual | None
    comparison: ControlComparison | None
    places: list[Place]
    probes: list[Probe]
    readable: float | None
    faithful: Mean
    information: float | None
    decoder: Mean | None
    text: TextThought | None
    readings: list[Reading]
    gates: list[Gate]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: a figure that could not be computed is None."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_subject(subject: Subject) -> None:
    """Makes sure that a model has latents to audit.

    Raises:
        AuditError: A model that makes no latents.
    """
    section = subject.reasoner.config
    if section.num_latents == 0:
        raise AuditError(
            f"{subject.name} has no latents to audit: it reasons in text. Name a checkpoint of the curriculum or of RL."
        )
    if not THOUGHT_SOURCES[section.thought_source].is_recurrent:
        raise AuditError(
            f"{subject.name} has no latents to audit: its thought source is {section.thought_source!r}, whose "
            "placeholders are ordinary tokens. It is a control; give it with --control beside a model with latents."
        )


def check_control(control: Subject) -> None:
    """Makes sure that a control is a pause control.

    Raises:
        AuditError: A checkpoint that is no pause control.
    """
    section = control.reasoner.config
    if section.num_latents == 0 or section.thought_source not in PAUSE:
        what = f"{section.num_latents} latents of the source {section.thought_source!r}"
        raise AuditError(
            f"The control {control.name} has {what if section.num_latents else 'no latents: it reasons in text'}. A "
            "pause control has placeholders that hand nothing on: train one with controls.pause=true."
        )


@torch.no_grad()
def audit(
    subject: Subject,
    control: Subject | None,
    text: Subject | None,
    question: Question,
    settings: EvaluateSection,
    seed: int,
) -> Audit:
    """Audits a model.

    Args:
        control: A pause control, answered on the same problems.
        text: The model whose text chain of thought is measured.

    Raises:
        AuditError: A model without latents, or a control that is none.
    """
    check_subject(subject)
    if control is not None:
        check_control(control)
    reasoner, problems = subject.reasoner, question.problems
    own = answer(reasoner, problems, settings)
    tokens, probabilities = lens(reasoner, own)
    text_latents = text_as_latents(reasoner, tokens[..., 0])
    block = reasoner.config.latents_per_step if reasoner.config.supervision == "step_tokens" else None
    planned = interventions(own, seed, text_latents, block or 1)
    effects = {one.name: measure_effect(reasoner, own, one, settings, seed) for one in planned}
    read_alone = effects[AS_TEXT]
    changed = measure_counterfactual(reasoner, own, question.changed, settings, seed)
    compared = _compare(own, control, settings, seed) if control is not None else None
    gates = judge(effects, changed, compared, question.floor)
    probes = _probe(reasoner, question.probed, settings, seed, block)
    return Audit(
        checkpoint=subject.name,
        num_latents=reasoner.config.num_latents,
        problems=len(problems),
        floor=question.floor,
        accuracy=Mean.share(own.right, settings.bootstrap, seed),
        written=float(np.mean([thought_length(reasoner, row) for row in own.token_ids])),
        effects=list(effects.values()),
        counterfactual=changed,
        comparison=compared,
        places=measure_places(reasoner, own, tokens, settings.bootstrap),
        probes=probes,
        readable=read_alone.accuracy.value / read_alone.own.value if read_alone.own.value > 0 else None,
        faithful=read_alone.unchanged,
        information=_information(probes, reasoner.config.latents_per_step),
        decoder=decoder_accuracy(reasoner, own, settings.bootstrap),
        text=measure_text(text.reasoner, problems, settings, text.name, seed) if text is not None else None,
        readings=read(reasoner, own, tokens, probabilities, READ),
        gates=gates,
        verdict=verdict(gates),
    )


def _compare(own: Answers, control: Subject, settings: EvaluateSection, seed: int) -> ControlComparison:
    theirs = answer(control.reasoner, own.problems, settings)
    return ControlComparison(
        control.name,
        control.reasoner.config.num_latents,
        accuracy=Mean.share(theirs.right, settings.bootstrap, seed),
        lead=Mean.difference(own.right.astype(np.float64) - theirs.right, settings.bootstrap, seed),
    )


def _probe(
    reasoner: Reasoner, problems: Sequence[Problem], settings: EvaluateSection, seed: int, block: int | None
) -> list[Probe]:
    thoughts = answer(reasoner, problems, settings.model_copy(update={"max_new_tokens": 1}))
    steps = [problem.steps for problem in problems]
    return probe_steps(thoughts.latents, thoughts.counts, steps, settings.bootstrap, seed, block)


def _information(probes: Sequence[Probe], latents_per_step: int) -> float | None:
    """For each step the most bits that one of its latents says about it, summed over the steps."""
    best: dict[int, float] = {}
    for probe in probes:
        if (probe.latent - 1) // latents_per_step == probe.step - 1:
            best[probe.step] = max(best.get(probe.step, 0.0), probe.bits.value)
    return sum(best.values()) if best else None
