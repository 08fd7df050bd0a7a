"""Gates: what must hold before a model is called a latent reasoner, and the verdict in one sentence.

Each gate asks for a difference whose 95% interval over problems lies above 0, and for a size that matters. With a
thousand problems a difference of three points is significant, but it shows that the answers hardly need the latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...statistics.intervals import Mean
from .counterfactual import Counterfactual
from .interventions import Effect

# Share of the accuracy above a guess that must be lost without the latents. With half, more of the accuracy comes from
# the latents than from the question.
MINIMUM_LOSS = 0.5
# Share of the answers that must become the answers of the changed questions: more than half.
MINIMUM_FOLLOW = 0.5
# Accuracy by which latents must be ahead of pause tokens. Seeds of one recipe differ by as much (0.83 to 0.88 for the
# quickstart's curriculum), and an interval over problems does not cover seeds.
MINIMUM_LEAD = 0.05
# Problems, or pairs of problems, that a gate needs. With 20 the interval of a share is about 0.2 wide on each side.
MINIMUM_PROBLEMS = 20


@dataclass(frozen=True)
class Gate:
    """One question to a model.

    Attributes:
        passed: None if it was not measured.
        because: The figures, or why it was not measured.
    """

    name: str
    passed: bool | None
    because: str


@dataclass(frozen=True)
class ControlComparison:
    """A model beside a control, on the same problems.

    Attributes:
        control: Path of the control's checkpoint.
        num_latents: Number of its pause tokens.
        accuracy: Accuracy of the control.
        lead: Paired difference, model less control.
    """

    control: str
    num_latents: int
    accuracy: Mean
    lead: Mean


def judge(
    effects: Mapping[str, Effect],
    counterfactual: Counterfactual | None,
    comparison: ControlComparison | None,
    floor: float,
) -> list[Gate]:
    """The four gates.

    Args:
        floor: Accuracy of a guess.
    """
    return [
        _hurts("swap hurts", effects.get("swap"), floor),
        _hurts("zero hurts", effects.get("zero"), floor),
        _followed(counterfactual),
        _better(comparison),
    ]


def _hurts(name: str, effect: Effect | None, floor: float) -> Gate:
    if effect is None:
        return Gate(name, None, "no two problems with different answers and as many latents")
    if effect.loss.n < MINIMUM_PROBLEMS:
        return _too_few(name, f"{effect.loss.n} problems are answered with other latents")
    if effect.own.ci95[0] <= floor:
        return Gate(name, False, f"it answers no better than a guess: {_interval(effect.own)} against {floor:.3f}")
    needed = MINIMUM_LOSS * (effect.own.value - floor)
    passed = effect.loss.ci95[0] > 0 and effect.loss.value >= needed
    lost = f"{effect.own.value:.3f} becomes {effect.accuracy.value:.3f}"
    return Gate(name, passed, f"{lost}; a loss of {needed:.3f} is asked for, {_interval(effect.loss)} is found")


def _followed(found: Counterfactual | None) -> Gate:
    name = "counterfactual followed"
    if found is None:
        return Gate(
            name,
            None,
            "no question could be changed: the data gives none whose latents differ, and steps are no equations",
        )
    if found.known is None or found.known.lead.n < MINIMUM_PROBLEMS:
        pairs = found.known.lead.n if found.known is not None else 0
        return _too_few(name, f"{pairs} pairs are answered right on both sides")
    follow, lead = found.known.follow, found.known.lead
    passed = lead.ci95[0] > 0 and follow.value >= MINIMUM_FOLLOW
    return Gate(name, passed, f"{_interval(follow)} of the answers follow, {found.known.stay.value:.3f} stay")


def _better(comparison: ControlComparison | None) -> Gate:
    name = "better than pause"
    if comparison is None:
        return Gate(name, None, "no pause control was given (--control)")
    if comparison.lead.n < MINIMUM_PROBLEMS:
        return _too_few(name, f"{comparison.lead.n} problems are answered by both")
    passed = comparison.lead.ci95[0] > 0 and comparison.lead.value >= MINIMUM_LEAD
    asked = f"a lead of {MINIMUM_LEAD:.2f} is asked for, {_interval(comparison.lead)} is found"
    return Gate(name, passed, f"pause tokens reach {comparison.accuracy.value:.3f}; {asked}")


def _too_few(name: str, there: str) -> Gate:
    return Gate(name, None, f"{there}, {MINIMUM_PROBLEMS} are needed")


def _interval(mean: Mean) -> str:
    return f"{mean.value:.3f} ({mean.ci95[0]:.3f} to {mean.ci95[1]:.3f})"


def verdict(gates: Sequence[Gate]) -> str:
    """One plain sentence. Only a model that passes every gate is called a latent reasoner."""
    failed = [gate.name for gate in gates if gate.passed is False]
    missing = [gate.name for gate in gates if gate.passed is None]
    if failed:
        return f"This is not shown to be a latent reasoner: it fails {_listed(failed)}."
    if missing:
        passed = [gate.name for gate in gates if gate.passed]
        begin = f"It passes {_listed(passed)}, but " if passed else "Nothing is shown: "
        verb = "is" if len(missing) == 1 else "are"
        return f"{begin}{_listed(missing)} {verb} not measured, so it is not yet shown to be a latent reasoner."
    return "This is a latent reasoner on these problems: it passes every gate."


def _listed(names: Sequence[str]) -> str:
    quoted = [f"“{name}”" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"
