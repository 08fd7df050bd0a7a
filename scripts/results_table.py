"""Markdown table of runs that differ in their seed: results_table.py RUN_FOLDER [RUN_FOLDER …]"""

import json
import sys
from pathlib import Path
from statistics import mean

from neuralese.pipeline.evaluate.evaluate import Measurement, read_results
from neuralese.pipeline.evaluate.table import STAGE_NAMES, metric_name, results_columns, setting_name


def main(folders: list[Path]) -> None:
    runs = [read_results(folder / "results.json") for folder in folders]
    seconds = [json.loads((folder / "seconds.json").read_text()) for folder in folders]
    columns = results_columns(runs[0])
    print(
        f"Seeds {', '.join(str(run[0].seed) for run in runs)}; {runs[0][0].n} problems; mean over seeds (each seed).\n"
    )
    print("| model | samples |", " | ".join(metric_name(*column) for column in columns), "| train s |")
    print("|" + "---|" * (len(columns) + 3))
    for stage in dict.fromkeys(row.stage for row in runs[0]):
        settings = dict.fromkeys(setting_name(row) for row in runs[0] if row.stage == stage)
        for setting in settings:
            cells = [cell(runs, stage, setting, column) for column in columns]
            spent = f"{mean(s[stage] for s in seconds):.0f}" if setting == "greedy" else ""
            print(f"| {STAGE_NAMES[stage]} | {setting} |", " | ".join(cells), f"| {spent} |")


def cell(runs: list[list[Measurement]], stage: str, setting: str, column: tuple[str, int]) -> str:
    values = [
        row.value
        for run in runs
        for row in run
        if (row.stage, setting_name(row), (row.metric, row.k)) == (stage, setting, column)
    ]
    return f"{mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})" if values else ""


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
