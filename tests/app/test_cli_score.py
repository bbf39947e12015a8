"""`whence score`: its queries, its options, its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import cli
from app.commands import score as scoring
from app.commands.queries import as_bodies, read_queries
from engine.errors import EmptyDataset, InvalidQuery
from engine.pipeline import ScoreResult
from engine.types import Coverage, Span
from tests.app.commands import refused
from tests.app.resources import jsonl


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(jsonl())
    return path


QUERIES = (
    '{"id": "q1", "prompt": "one", "completion": " two", "span": {"start": 0, "end": 2}}\n'
    "\n"
    '{"messages": [{"role": "user", "content": "a\u2028b"}, {"role": "assistant", "content": "c"}]}\n'
)


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.write_text(QUERIES, encoding="utf-8")
    return path


def test_queries_are_read_with_their_ids(queries):
    first, second = read_queries(queries)
    assert (first.id, first.query.prompt, first.query.span) == ("q1", "one", Span(0, 2))
    assert (second.id, len(second.query.messages or ())) == ("query-1", 2)


def test_a_line_may_hold_a_set_and_name_its_measurement(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text(
        '{"id": "s", "queries": [{"prompt": "a", "completion": " b"}, {"prompt": "c", "completion": " d"}], '
        '"measurement": "log_odds"}\n{"prompt": "e", "completion": " f"}\n'
    )
    whole, plain = read_queries(path)
    assert [member.prompt for member in whole.query.members] == ["a", "c"]
    assert (whole.query.measurement, plain.query.measurement, plain.query.members) == ("log_odds", "log_prob", ())
    with pytest.raises(InvalidQuery, match="cannot be part of a set"):
        as_bodies([whole])
    assert as_bodies([plain]) == [{"prompt": "e", "completion": " f"}]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"prompt": "a", "completion": "b"}\n{"prompt": }', "Line 2"),
        ('{"completion": "b"}', "exactly one of prompt and messages"),
        ('{"prompt": "a"}', "no completion"),
        ('{"prompt": "a", "completion": ""}', "no completion"),
        ('{"prompt": 3, "completion": "b"}', "prompt must be a string"),
        ('{"prompt": "a", "completion": "b", "top_k": 3}', "unknown field 'top_k'"),
        ('{"prompt": "a", "completion": "b", "span": {"start": "0", "end": 1}}', "span"),
        ('{"messages": [], "completion": "b"}', "messages"),
        ("[]", "not an object"),
        ('{"prompt": "a", "completion": "b", "measurement": "odds"}', "measurement"),
        ('{"prompt": "a", "queries": [{"prompt": "a", "completion": "b"}]}', "either queries or prompt"),
        ('{"queries": []}', "queries"),
        ('{"queries": [{"prompt": "a", "completion": "b", "id": "x"}]}', "unknown field 'id' in queries"),
        ("", "no query"),
        ('{"id": "x", "prompt": "a", "completion": "b"}\n' * 2, "2 queries with the id 'x'"),
    ],
)
def test_a_bad_query_names_its_line_and_cause(tmp_path, text, told):
    path = tmp_path / "queries.jsonl"
    path.write_text(text)
    with pytest.raises(InvalidQuery) as caught:
        read_queries(path)
    assert told in caught.value.detail


def result(queries: int = 2, rows: int = 4) -> ScoreResult:
    return ScoreResult(
        scores_QN=np.arange(queries * rows, dtype=np.float32).reshape(queries, rows),
        example_ids=tuple(f"row-{n}" for n in range(rows)),
        method="ekfac",
        options={"damping": 0.1},
        seconds=1.5,
        index_bytes=1000,
        coverage=Coverage(90, 100, 0.9),
    )


def score_arguments(model_dir: Path, train: Path, queries: Path, out: Path, *more: str) -> list[str]:
    return [
        "score", "--base", str(model_dir), "--dataset", str(train), "--queries", str(queries), "--out", str(out), *more
    ]  # fmt: skip


def test_score_writes_every_key_that_is_promised(model_dir, train, queries, tmp_path, capsys, monkeypatch):
    asked: list[Any] = []
    monkeypatch.setattr(scoring, "run", lambda *arguments: asked.extend(arguments) or result())
    out = tmp_path / "scores.npz"
    arguments = score_arguments(model_dir, train, queries, out, "--option", "damping=0.1", "-o", "projection_dim=64")
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coverage"] == 0.9
    config = asked[3]
    assert (config.options.projection_dim, config.method_options) == (64, {"damping": 0.1})
    with np.load(out, allow_pickle=False) as written:
        assert written["scores"].dtype == np.float32
        assert written["scores"].tolist() == result().scores.tolist()
        assert written["query_ids"].tolist() == ["q1", "query-1"]
        assert written["example_ids"].tolist() == ["row-0", "row-1", "row-2", "row-3"]
        assert written["method"].item() == "ekfac"
        assert json.loads(written["options"].item()) == {"damping": 0.1}
        assert (written["seconds"].item(), written["index_bytes"].item()) == (1.5, 1000)
        assert written["coverage"].item() == 0.9
    assert [path.name for path in tmp_path.glob(".*.part")] == []


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--method", "ekfak"], "'ekfac'"),
        (["--option", "dampling=0.1"], "'damping'"),
        (["--option", "damping=-1"], "damping"),
        (["--option", "damping"], "KEY=VALUE"),
        (["--option", "a=1", "--option", "a=2"], "twice"),
        (["--dtype", "float8"], "float32"),
    ],
)
def test_score_refuses_bad_options_before_any_work(model_dir, train, queries, tmp_path, capsys, more, told):
    assert told in refused(capsys, *score_arguments(model_dir, train, queries, tmp_path / "o.npz", *more), code=2)


def test_score_refuses_an_output_it_cannot_write_before_any_work(model_dir, train, queries, tmp_path, capsys):
    line = refused(capsys, *score_arguments(model_dir, train, queries, tmp_path / "none" / "o.npz"), code=2)
    assert "no directory" in line


def test_an_error_of_the_engine_is_one_line_and_leaves_no_file(
    model_dir, train, queries, tmp_path, capsys, monkeypatch
):
    def empty(*_arguments: object) -> None:
        raise EmptyDataset("No rows.")

    monkeypatch.setattr(scoring, "run", empty)
    out = tmp_path / "o.npz"
    assert "Dataset has no rows" in refused(capsys, *score_arguments(model_dir, train, queries, out), code=1)
    assert not out.exists()
