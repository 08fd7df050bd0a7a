"""Every row of docs/reliability.md: the message, the exit code, what is kept, and never a stack trace."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from contextlib import ExitStack

import bad_days
import pytest
from bad_days.day import BadDay, Scene
from bad_days.table import DOCS, written

from neuralese.pipeline.cli.app import main


def all_days() -> Iterator[tuple[str, BadDay]]:
    for module in sorted(info.name for info in pkgutil.iter_modules(bad_days.__path__)):
        for day in getattr(importlib.import_module(f"bad_days.{module}"), "DAYS", []):
            yield module, day


@pytest.mark.parametrize("day", [pytest.param(day, id=f"{module}: {day.what}") for module, day in all_days()])
def test_bad_day(day, finished, tmp_path, monkeypatch, capsys, caplog):
    with ExitStack() as cleanup:
        live_through(day, Scene(tmp_path, finished[0], monkeypatch, cleanup), capsys, caplog)


def live_through(day, scene, capsys, caplog):
    places = {"folder": str(scene.folder), "finished": str(scene.finished)}
    if day.before is not None:
        day.before(scene)
    capsys.readouterr()
    try:
        main([_filled(argument, places) for argument in day.command])
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    seen = " ".join(f"{out} {err} {caplog.text}".split())
    assert _filled(day.sees, places) in seen
    assert code == day.code, seen
    assert "Traceback" not in seen
    if day.code:
        assert len(err.strip().splitlines()) == 1, err  # one paragraph
    if day.after is not None:
        day.after(scene)


def _filled(text: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        text = text.replace(f"{{{name}}}", place)
    return text


def test_the_docs_hold_these_rows():
    days = list(all_days())
    assert len({day.what for _, day in days}) == len(days), "two days of one name"
    assert DOCS.read_text(encoding="utf-8") == written(), "render it: python tests/bad_days/table.py"
