"""`whence batches`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app import cli
from tests.app.commands import refused, run_json
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import QUESTION, jsonl


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def file(
    tmp_path: Path, model_dir: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Iterator[Path]:
    """A file of three questions, one of them wrong, for a server that can answer them."""
    (tmp_path / "train.jsonl").write_bytes(jsonl())
    file = tmp_path / "questions.jsonl"
    file.write_bytes(jsonl([QUESTION | {"custom_id": "a"}, {"prompt": "?"}, QUESTION | {"top_k": 1}]))
    with serving(make_settings(tmp_path), engine) as url:
        monkeypatch.setenv("WHENCE_URL", url)
        monkeypatch.setenv("COLUMNS", "200")
        for command in (
            ["model", "add", "bot", "--base", str(model_dir)],
            ["dataset", "add", str(tmp_path / "train.jsonl")],
            ["index", "build", "--model", "bot", "--dataset", "train", "--name", "first"],
            ["aliases", "set", "prod", "first"],
        ):
            assert cli.main(command) == 0
        capsys.readouterr()
        yield file


@pytest.mark.parametrize("target", [("--model", "bot"), ("--index", "first"), ("--index", "prod")])
def test_a_file_is_asked_and_its_answers_written(file, target, tmp_path, capsys):
    out = tmp_path / "answers.jsonl"
    assert cli.main(["batches", "run", str(file), *target, "--top-k", "2", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "1 of 3 lines have no answer" in captured.err
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["custom_id"], line["status"]) for line in answers] == [("a", 200), (None, 422), (None, 200)]
    assert [len(line["body"]["proponents"]) for line in answers if line["status"] == 200] == [2, 1]


def test_a_batch_is_left_to_itself_listed_fetched_and_removed(file, engine, tmp_path, capsys):
    engine.gate.clear()
    sent = run_json(capsys, "batches", "run", str(file), "--index", "prod", "--no-wait")
    out = tmp_path / "answers.jsonl"
    assert sent["id"] in refused(capsys, "batches", "results", sent["id"], "--out", str(out), code=1)
    assert not out.exists()
    engine.gate.set()
    assert cli.main(["jobs", "watch", sent["job_id"]]) == 0
    capsys.readouterr()
    assert run_json(capsys, "batches", "show", sent["id"])["state"] == "ready"
    assert [batch["id"] for batch in run_json(capsys, "batches", "list")["data"]] == [sent["id"]]
    assert cli.main(["batches", "list"]) == 0
    assert cli.main(["batches", "results", sent["id"], "--out", str(out)]) == 0
    assert len(out.read_text().splitlines()) == 3
    assert cli.main(["batches", "remove", sent["id"]]) == 0
    capsys.readouterr()
    assert run_json(capsys, "batches", "list")["data"] == []


def test_what_cannot_be_done_is_said_before_anything_is_sent(file, tmp_path, capsys):
    missing = str(tmp_path / "none" / "answers.jsonl")
    assert "--out" in refused(capsys, "batches", "run", str(file), "--index", "prod", "--out", missing, code=2)
    assert "--out" in refused(capsys, "batches", "run", str(file), "--no-wait", "--out", "answers.jsonl", code=2)
    assert run_json(capsys, "batches", "list")["data"] == []
