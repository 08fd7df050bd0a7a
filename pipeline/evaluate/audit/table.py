"""The tables of an audit, and an audit on the terminal."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ...statistics.intervals import Mean
from ...system.files import write_whole
from ..table import wide_console
from .audit import Audit
from .gates import Gate

SHOWN = 3  # problems whose thoughts are printed
VERDICTS = {True: "pass", False: "FAIL", None: "not measured"}


@dataclass(frozen=True)
class Grid:
    """A table in words."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str | None = None


def print_audit(found: Audit) -> None:
    """Prints every table of an audit, and the verdict at the end."""
    console = wide_console()
    console.print(f"Checkpoint   {found.checkpoint}", soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Problems     {found.problems}, {found.num_latents} latents each; accuracy {_interval(found.accuracy)}; "
        f"a guess is right for {found.floor:.3f}",
        highlight=False,
    )
    if found.written >= 0.05:  # less is printed as 0.0
        console.print(f"Text         {found.written:.1f} tokens between latents and answer", highlight=False)
    for grid in audit_grids(found):
        console.print(_table(grid))
    _print_information(console, found)
    _print_thoughts(console, found)
    console.print(_table(_gates(found.gates)))
    console.print(found.verdict, style="bold", soft_wrap=True, highlight=False)


def write_audit(path: Path, found: Audit) -> None:
    """Writes audit.json, whole or not at all: the audit, and its tables in words under `tables`."""
    written = {**found.to_dict(), "tables": [asdict(grid) for grid in audit_grids(found)]}
    write_whole(path, json.dumps(written, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def audit_grids(found: Audit) -> list[Grid]:
    """The tables of everything that was measured."""
    grids = [_interventions(found)]
    if found.counterfactual is not None:
        grids.append(_counterfactual(found))
    grids.append(_places(found))
    if found.probes:
        grids.append(_bits(found))
    return grids


def _table(grid: Grid) -> Table:
    table = Table(
        title=grid.title, caption=grid.caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    for heading in grid.headings:
        table.add_column(heading)
    for row in grid.rows:
        table.add_row(*row)
    return table


def _interval(mean: Mean | None) -> str:
    return "" if mean is None else f"{mean.value:.3f} ({mean.ci95[0]:.2f} to {mean.ci95[1]:.2f})"


def _interventions(found: Audit) -> Grid:
    rows = []
    for effect in found.effects:
        shares = (effect.accuracy, effect.loss, effect.unchanged, effect.donor)
        rows.append([effect.name, str(effect.accuracy.n), *map(_interval, shares)])
    return Grid(
        "Other latents in place of the model's own",
        ["latents", "n", "accuracy", "lost", "answers unchanged", "answers of the donor"],
        rows,
        "In brackets: 95% intervals over problems. t alone: the model makes those after it anew. keep t: the "
        "first t stay, the rest are the mean.",
    )


def _counterfactual(found: Audit) -> Grid:
    measured = found.counterfactual
    assert measured is not None
    rows = []
    for name, transplant in (("all", measured.every), ("both answered right", measured.known)):
        if transplant is not None:
            shares = [_interval(transplant.follow), _interval(transplant.stay), f"{transplant.neither:.3f}"]
            rows.append([name, str(transplant.lead.n), *shares])
    return Grid(
        "The question with the latents of itself with one thing changed",
        ["pairs", "n", "answer follows", "answer stays", "neither"],
        rows,
        f"Accuracy on the questions {_interval(measured.original)}, on the changed ones {_interval(measured.changed)}.",
    )


def _places(found: Audit) -> Grid:
    rows = []
    for place in found.places:
        felt = f"{place.sensitivity:.3g}"
        geometry = [f"{place.rms:.2f}", f"{place.cosine:.3f}", f"{place.effective_rank:.1f}"]
        common = f"{place.common:.3f}" if place.common is not None else ""
        rows.append([str(place.latent), *geometry, felt, _interval(place.lens), common])
    return Grid(
        "Latents by place",
        ["latent", "rms", "cosine", "effective rank", "sensitivity, nats", "logit lens reads its step", "most common"],
        rows,
    )


def _bits(found: Audit) -> Grid:
    """Bits by latent and step, beside the best latent of each step."""
    steps = sorted({probe.step for probe in found.probes})
    latents = sorted({probe.latent for probe in found.probes})
    by_cell = {(probe.latent, probe.step): probe for probe in found.probes}
    rows = [
        [
            f"latent {latent}",
            *(f"{by_cell[latent, step].bits.value:.2f}" if (latent, step) in by_cell else "" for step in steps),
        ]
        for latent in latents
    ]
    best = [max((p for p in found.probes if p.step == step), key=lambda p: p.bits.value) for step in steps]

    def line(name: str, cell: str) -> list[str]:
        return [name, *(cell.format(p=probe) for probe in best)]

    rows.append(line("entropy of the step", "{p.entropy:.2f}"))
    rows.append(line("best latent: accuracy", "{p.accuracy.value:.3f}"))
    rows.append(line("  most common result", "{p.majority:.3f}"))
    rows.append(line("  shuffled results", "{p.shuffled:.3f}"))
    return Grid(
        "Linear probes: bits that a latent says about a step, at least",
        ["", *(f"step {step}" for step in steps)],
        rows,
        f"{best[0].accuracy.n} problems, each predicted by a probe fitted to others.",
    )


def _print_information(console: Console, found: Audit) -> None:
    said = "" if found.readable is None else f" gives {found.readable:.2f} of the accuracy and"
    lines = [
        f"Text         that the head reads in the latents, alone,{said} the same answer for {_interval(found.faithful)}"
    ]
    if found.information is not None:
        lines.append(f"Latents      say at least {found.information:.1f} bits about the steps they stand for, in sum")
    if found.decoder is not None:
        lines.append(f"Decoder      reads {_interval(found.decoder)} of the steps from their latents")
    if found.text is not None:
        text = found.text
        lines.append(
            f"Text CoT     {text.tokens:.1f} tokens; next-token entropy {text.entropy:.3f} bits a token given the "
            f"question, compressed {text.compressed:.2f} bits a token; accuracy {_interval(text.accuracy)} at "
            f"temperature 1 ({text.checkpoint})"
        )
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _print_thoughts(console: Console, found: Audit) -> None:
    """Prints thoughts as lines: questions are too long for cells, and may hold brackets."""
    lines = ["Thoughts: the most likely tokens at each latent, under the logit lens"]
    for reading in found.readings[:SHOWN]:
        lines += ["", f"  {reading.question}", f"    steps      {' | '.join(reading.steps)}"]
        lines += [f"    latent {place:<3} {'  '.join(tokens)}" for place, tokens in enumerate(reading.lens, 1)]
        if reading.decoded is not None:
            lines.append(f"    decoder    {' | '.join(reading.decoded)}")
        lines.append(f"    written    {' '.join(reading.answer.split())}")
    for line in [*lines, ""]:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def _gates(gates: Sequence[Gate]) -> Grid:
    rows = [[gate.name, VERDICTS[gate.passed], gate.because] for gate in gates]
    return Grid("Verdict", ["gate", "", "because"], rows)
