"""Fails when a run's results miss the floors written beside its recipe: check_floors.py RUN_FOLDER FLOORS_JSON"""

import json
import sys
from pathlib import Path


def main(folder: Path, floors_file: Path) -> int:
    rows = json.loads((folder / "results.json").read_text())
    seconds = json.loads((folder / "seconds.json").read_text())
    floors = json.loads(floors_file.read_text())
    failed = 0
    for stage, floor in floors.items():
        value = next(row["value"] for row in rows if row["stage"] == stage and row["metric"] == "accuracy")
        print(f"{'ok  ' if value >= floor else 'MISS'} {stage} greedy accuracy {value:.3f}, floor {floor}")
        failed += value < floor
    print(f"training and evaluation took {sum(seconds.values()):.0f} s")
    print(f"floors: {len(floors) - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])) > 0)
