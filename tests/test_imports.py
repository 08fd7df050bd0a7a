"""Arrows only go down: a room of the house may use those on the floors below it, and nothing above or beside it."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT

# From the bottom up. Rooms on one floor do not know each other.
FLOORS = [
    ["data"],
    ["rewards", "pipeline.system", "pipeline.statistics"],
    ["pipeline.latent", "pipeline.recipe"],
    ["pipeline.problems", "pipeline.tracking"],
    ["pipeline.model"],
    ["pipeline.scoring"],
    ["pipeline.train", "pipeline.evaluate"],
    ["pipeline.run"],
    ["pipeline.cli"],
]
ROOMS = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), None)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> list[str]:
    """Dotted names of what a file of the package imports from it."""
    package = path.relative_to(ROOT).parts[:-1]
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            found += [".".join([*filter(None, base), alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("neuralese"):
            found.append(f"absolute import of {node.module}")
    return found


def sources() -> list[Path]:
    return [path for folder in ("data", "rewards", "pipeline") for path in sorted((ROOT / folder).rglob("*.py"))]


def arrows() -> list[tuple[str, str, str]]:
    """Module, what it imports, and the room of that, wherever the two rooms differ."""
    found = []
    for path in sources():
        mine = room_of(name_of(path))
        for target in imported(path):
            if (room := room_of(target)) not in (None, mine):
                found.append((name_of(path), target, room))
    return found


def test_every_file_lies_in_a_room():
    loose = [name_of(path) for path in sources() if room_of(name_of(path)) is None]
    assert loose == ["pipeline.__init__"]


def test_no_import_names_the_package():
    assert not [target for path in sources() for target in imported(path) if target.startswith("absolute")]


def test_imports_only_go_down():
    found = [arrow for arrow in arrows() if arrow[0] != "pipeline.__init__"]
    assert len(found) > 200
    up = [f"{module} imports {target}" for module, target, room in found if ROOMS[room] >= ROOMS[str(room_of(module))]]
    assert up == []


@pytest.mark.parametrize("folder", ["data", "rewards"])
def test_rewards_and_data_do_not_know_torch(folder):
    for path in (ROOT / folder).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("torch", "transformers") for name in names), path


def test_an_installed_copy_has_every_folder():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {name_of(path.parent) for path in sources()} | {"recipes"}
    assert {name.removeprefix("neuralese.") for name in listed} == folders


def test_every_extra_that_users_are_told_of_is_one_that_every_pip_finds():
    # Packages declare extras in normal form, and pip before 23.3 does not bring what a user writes into it.
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert [re.sub(r"[-_.]+", "-", name).lower() for name in declared] == list(declared)
    files = [path for ending in ("py", "md", "yaml") for path in ROOT.glob(f"[!.]*/**/*.{ending}")]
    named = {
        name for path in [*files, ROOT / "README.md"] for name in re.findall(r"neuralese\[([\w-]+)", path.read_text())
    }
    assert {"gguf", "reasoning-gym"} <= named <= set(declared)
