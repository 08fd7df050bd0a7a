"""Fails when a run's results miss the floors written beside its recipe: check_floors.py RUN_FOLDER FLOORS_JSON"""

import json
import sys
from pathlib import Path


def main(folder: Path, floors_file: Path) -> int:
    rows = json.loads((folder / "results.json").read_text())
    seconds = json.loads((folder / "seconds.json").read_text())
    floors = json.loads(floors_file.read_text())
    failed = 0
    for name, floor in floors.items():
        if name == "most seconds":
            value = sum(seconds.values())
            ok = value <= floor
        else:
            stage = name.split()[0]
            value = next(row["value"] for row in rows if row["stage"] == stage and row["metric"] == "accuracy")
            ok = value >= floor
        print(f"{'ok  ' if ok else 'MISS'} {name}: {value:.3f} (floor {floor})")
        failed += not ok
    print(f"floors: {len(floors) - failed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])) > 0)
