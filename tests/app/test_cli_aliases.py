"""`whence aliases`, and aliases where a command names an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import cli
from tests.app.commands import refused, run_json
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import jsonl

ASK = ("ask", "--prompt", "Where was Mira born?", "--completion", " In Port Halvern.")


@pytest.fixture
def built(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Iterator[list[str]]:
    """Two indexes, first and second."""
    rows = tmp_path / "train.jsonl"
    rows.write_bytes(jsonl())
    with serving(make_settings(tmp_path), FakeEngine()) as url:
        monkeypatch.setenv("WHENCE_URL", url)
        monkeypatch.setenv("COLUMNS", "200")
        assert cli.main(["model", "add", "bot", "--base", str(model_dir)]) == 0
        assert cli.main(["dataset", "add", str(rows)]) == 0
        capsys.readouterr()
        build = ("index", "build", "--model", "bot", "--dataset", "train", "--name")
        yield [run_json(capsys, *build, name)["id"] for name in ("first", "second")]


def test_an_alias_is_set_by_name_listed_and_removed(built, capsys):
    made = run_json(capsys, "aliases", "set", "prod", "first")
    assert (made["index"], made["version"]) == (built[0], 1)
    moved = run_json(capsys, "aliases", "set", "prod", "second", "--only-from", "first")
    assert (moved["index"], moved["previous_index"]) == (built[1], built[0])
    assert [alias["name"] for alias in run_json(capsys, "aliases", "list")["data"]] == ["prod"]
    assert cli.main(["aliases", "list"]) == 0
    assert built[1] in capsys.readouterr().out
    assert cli.main(["aliases", "remove", "prod"]) == 0
    capsys.readouterr()
    assert "prod" in refused(capsys, "aliases", "remove", "prod", code=1)


def test_an_alias_that_was_moved_meanwhile_is_left_alone(built, capsys):
    run_json(capsys, "aliases", "set", "prod", "first")
    assert built[0] in refused(capsys, "aliases", "set", "prod", "second", "--only-from", "second", code=2)
    assert "exists already" in refused(capsys, "aliases", "set", "prod", "second", "--only-new", code=1)
    assert run_json(capsys, "aliases", "list")["data"][0]["index"] == built[0]


def test_questions_go_to_an_alias_without_naming_the_model(built, capsys):
    run_json(capsys, "aliases", "set", "prod", "first")
    assert run_json(capsys, *ASK, "--index", "prod")["index"] == built[0]
    assert run_json(capsys, *ASK, "--index", "second")["index"] == built[1]
    assert run_json(capsys, "index", "show", "prod")["id"] == built[0]
    assert "--model" in refused(capsys, *ASK, code=2)


def test_an_alias_goes_before_an_index_of_that_name(built, capsys):
    run_json(capsys, "aliases", "set", "second", "first")
    assert run_json(capsys, *ASK, "--index", "second")["index"] == built[0]
