"""Markdown table of runs that differ in their seed: results_table.py RUN_FOLDER [RUN_FOLDER …]"""

import json
import sys
from pathlib import Path

from sweep_table import Group, Run, results_table

from neuralese.pipeline.evaluate.measure import read_results
from neuralese.pipeline.evaluate.table import results_columns


def main(folders: list[Path]) -> None:
    runs = []
    for folder in folders:
        rows = read_results(folder / "results.json")
        runs.append(Run(rows[0].seed, rows, json.loads((folder / "seconds.json").read_text())))
    print(f"Mean [95% interval over seeds] (seeds {', '.join(str(run.seed) for run in runs)}).\n")
    print("\n".join(results_table([Group("", runs)], results_columns(runs[0].results))))


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
