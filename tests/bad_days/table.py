"""Writes the table of docs/reliability.md from the days that are tested: `python tests/bad_days/table.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- days -->", "<!-- /days -->"
TITLES = {
    "recipes": "Recipes and command lines",
    "data": "Data",
    "text": "Text that looks like control tokens",
    "models": "Models and checkpoints",
    "lora": "LoRA and precision",
    "rewards": "Rewards and scorers",
    "evaluation": "Evaluation",
    "disks": "Disks",
    "runs": "Runs and processes",
    "resume_conditions": "Resuming",
    "resume_files": "Resuming",
    "tracking": "W&B",
}


def rows() -> str:
    """The tables, one for each title."""
    import importlib

    head = "| input | what the user sees | exit code | what is kept |\n|---|---|---|---|\n"
    tables: dict[str, str] = {}
    for module, title in TITLES.items():
        if not (Path(__file__).parent / f"{module}.py").is_file():
            continue
        days = importlib.import_module(f"bad_days.{module}").DAYS
        table = "".join(f"| {day.what} | {_cell(day.sees)} | {day.code} | {day.kept} |\n" for day in days)
        tables[title] = tables.get(title, f"### {title}\n\n{head}") + table
    return "\n".join(tables.values())


def _cell(text: str) -> str:
    return text.replace("{folder}", "FOLDER").replace("{finished}", "RUN").replace("|", "\\|").replace("<", "&lt;")


def written() -> str:
    """The page with its tables as they are tested now."""
    text = DOCS.read_text(encoding="utf-8")
    before, after = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    return f"{before}\n{rows()}{after}"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    DOCS.write_text(written(), encoding="utf-8")
