"""Retrainings that several evaluations share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.evaluations.reusing import take_over


def _write(directory: Path, name: str, text: str) -> None:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("links", [True, False])
def test_what_is_missing_is_taken_over_and_the_newest_wins(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    new, old, work = tmp_path / "new", tmp_path / "old", tmp_path / "work"
    for name in ("retrainings/plan.json", "retrainings/runs/a.json", "scores/s.npz"):
        _write(new, name, "new")
        _write(old, name, "old")
    _write(old, "retrainings/runs/b.json", "old")
    for private in ("retrainings/.lock", "retrainings/runs/c.json.partial", "evidence.npz", "indexes/x/manifest.json"):
        _write(old, private, "its own")
    _write(work, "retrainings/runs/a.json", "here already")
    take_over([new, old, tmp_path / "gone"], work)
    found = {str(file.relative_to(work)): file.read_text() for file in work.rglob("*") if file.is_file()}
    assert found == {
        "retrainings/plan.json": "new",
        "retrainings/runs/a.json": "here already",
        "retrainings/runs/b.json": "old",
        "scores/s.npz": "new",
    }
