"""Prints a Markdown table of audits, one line each: python scripts/audits_table.py outputs/*/audit.json"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

GATES = {True: "pass", False: "FAIL", None: "not measured"}


def line(file: Path) -> str:
    """A table row: accuracy with own and other latents, the share that follows the changed question, and the gates."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    effects = {effect["name"]: effect["accuracy"]["value"] for effect in found["effects"]}
    changed = (found["counterfactual"] or {}).get("known")
    control = found["comparison"]["accuracy"]["value"] if found["comparison"] else None
    values = [
        found["accuracy"]["value"],
        *(effects.get(name) for name in ("swap", "zero", "mean", "shuffle")),
        changed["follow"]["value"] if changed else None,
        control,
    ]
    gates = [GATES[gate["passed"]] for gate in found["gates"]]
    shown = ["" if value is None else f"{value:.3f}" for value in values]
    return "| " + " | ".join([file.stem, *shown, f"{found['information']:.1f}", ", ".join(gates)]) + " |"


def main(files: list[str]) -> None:
    headings = ["audit", "accuracy", "swap", "zero", "mean", "shuffle", "follows", "pause control", "bits", "gates"]
    print("| " + " | ".join(headings) + " |\n|" + "---|" * len(headings))
    for file in files:
        print(line(Path(file)))


if __name__ == "__main__":
    main(sys.argv[1:])
