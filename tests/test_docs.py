"""Docs point at what is there: links, anchors, files, and names in files."""

import ast
import re
import unicodedata
from pathlib import Path

import pytest
from conftest import ROOT
from test_imports import FLOORS

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "data" / "README.md", *ROOT.glob("docs/**/*.md")])
FOLDERS = ("data", "docs", "pipeline", "recipes", "rewards", "scripts", "tests")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found = set()
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        kept = [c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
        found.add("".join(kept).replace(" ", "-"))
    return found


def names(file: Path) -> set[str]:
    """Functions and classes at the top of a file."""
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def members() -> dict[str, set[str]]:
    """Methods and fields of the classes of the package, by class."""
    files = [file for folder in ("data", "rewards", "pipeline") for file in (ROOT / folder).rglob("*.py")]
    found: dict[str, set[str]] = {}
    for of in [node for file in files for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]:
        methods = {node.name for node in of.body if isinstance(node, ast.FunctionDef)}
        fields = {ast.unparse(node.target) for node in of.body if isinstance(node, ast.AnnAssign)}
        found[of.name] = methods | fields
    return found


MEMBERS = members()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_points_at_is_there(page):
    text, wrong = page.read_text(encoding="utf-8"), []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                wrong.append(target)
    for path, name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./]*?)(?:::(\w+))?`", text):
        file = ROOT / path
        if "NAME" not in path and (not file.exists() or (name and name not in names(file))):
            wrong.append(f"{path}::{name}")
    for name, path in re.findall(rf"`(\w+)`,? (?:in|\()\s*`((?:{'|'.join(FOLDERS)})/[\w/]+\.py)`", text):
        if not re.search(rf"\b{name}\b", (ROOT / path).read_text()):
            wrong.append(f"{name} in {path}")
    for name, member in re.findall(r"`([A-Z]\w+)\.(\w+)`", text):
        if member not in MEMBERS.get(name, {member}):
            wrong.append(f"{name}.{member}")
    assert wrong == []


def test_the_pages_name_many_files():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(re.findall(r"`pipeline/[\w/]+\.py", text)) > 50


def test_the_plan_shows_the_floors_that_imports_keep():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = {int(floor): re.findall(r"pipeline/\w+|rewards|data", rooms) for floor, rooms in
             re.findall(r"^(\d)  ((?:(?:pipeline/\w+|rewards|data) *)+)", text, flags=re.MULTILINE)}  # fmt: skip
    assert [sorted(shown[floor]) for floor in range(len(FLOORS))] == [
        sorted(room.replace(".", "/") for room in rooms) for rooms in FLOORS
    ]
