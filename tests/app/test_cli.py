"""The commands: what they print, how they end. Those that need a server have a real one with a fake engine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app import cli
from app.commands import score as scoring
from app.commands.console import clean, size
from app.commands.queries import read_queries
from engine.errors import EmptyDataset, InvalidQuery
from engine.pipeline import ScoreResult
from engine.types import Coverage, Span
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import jsonl


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def server(tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with serving(make_settings(tmp_path), engine) as url:
        monkeypatch.setenv("WHENCE_URL", url)
        monkeypatch.setenv("COLUMNS", "200")
        yield url


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_bytes(jsonl())
    return path


@pytest.fixture
def registered(server: str, model_dir: Path, train: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model called bot and a dataset called train."""
    assert cli.main(["model", "add", "bot", "--base", str(model_dir)]) == 0
    assert cli.main(["dataset", "add", str(train)]) == 0
    capsys.readouterr()


@pytest.fixture
def ready(registered: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["index", "build", "--model", "bot", "--dataset", "train"]) == 0
    capsys.readouterr()


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int) -> str:
    """The one line on stderr."""
    assert cli.main(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


# --- against a server ---


def test_models_are_added_and_listed(server, model_dir, capsys):
    added = run_json(capsys, "model", "add", "bot", "--base", str(model_dir))
    assert run_json(capsys, "model", "list")["data"] == [added]
    assert cli.main(["model", "list"]) == 0
    assert added["id"] in capsys.readouterr().out


def test_a_relative_path_means_the_same_to_the_server(server, model_dir, capsys, monkeypatch):
    monkeypatch.chdir(model_dir.parent)
    assert run_json(capsys, "model", "add", "bot", "--base", "model")["base"] == str(model_dir)


def test_a_recipe_is_read_from_a_file(server, model_dir, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"reduction": "example_mean"}')
    added = run_json(capsys, "model", "add", "bot", "--base", str(model_dir), "--recipe", str(recipe))
    assert added["recipe"]["reduction"] == "example_mean"


def test_warnings_of_the_server_are_shown(server, model_dir, capsys):
    assert cli.main(["model", "add", "bot", "--base", str(model_dir)]) == 0
    assert "recipe is unknown" in capsys.readouterr().err


def test_datasets_are_added_and_listed(server, train, capsys):
    added = run_json(capsys, "dataset", "add", str(train))
    assert (added["name"], added["rows"]) == ("train", 4)
    assert run_json(capsys, "dataset", "list")["data"] == [added]


def test_a_large_dataset_is_waited_for(tmp_path, engine, train, capsys, monkeypatch):
    with serving(make_settings(tmp_path, max_inline_rows_bytes=0), engine) as url:
        assert run_json(capsys, "dataset", "add", str(train), "--url", url)["state"] == "ready"


def test_an_index_is_built_by_names_and_waited_for(registered, capsys):
    built = run_json(
        capsys, "index", "build", "--model", "bot", "--dataset", "train", "-o", "damping=0.2", "--name", "mine"
    )
    assert built["state"] == "ready"
    assert run_json(capsys, "index", "show", "mine") == built
    assert run_json(capsys, "index", "list")["data"] == [built]
    assert cli.main(["index", "show", built["id"]]) == 0
    assert "90.0% of the trained parameters" in capsys.readouterr().out


def test_no_wait_returns_the_job(registered, engine, capsys):
    engine.gate.clear()
    built = run_json(capsys, "index", "build", "--model", "bot", "--dataset", "train", "--no-wait")
    assert built["state"] in ("queued", "building")
    engine.gate.set()
    assert cli.main(["jobs", "watch", built["job_id"]]) == 0
    assert "succeeded" in capsys.readouterr().out
    assert run_json(capsys, "jobs", "show", built["job_id"])["state"] == "succeeded"


def test_jobs_are_listed_cancelled_and_resumed(registered, engine, capsys):
    engine.gate.clear()
    job = run_json(capsys, "index", "build", "--model", "bot", "--dataset", "train", "--no-wait")["job_id"]
    assert [found["id"] for found in run_json(capsys, "jobs", "list")["data"]] == [job]
    run_json(capsys, "jobs", "cancel", job)
    assert "cancelled" in refused(capsys, "jobs", "watch", job, code=1)
    engine.gate.set()
    run_json(capsys, "jobs", "resume", job)
    assert cli.main(["jobs", "watch", job, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "succeeded"


def test_an_unknown_name_tells_those_there_are(registered, capsys):
    line = refused(capsys, "index", "build", "--model", "bto", "--dataset", "train", code=2)
    assert "--model" in line
    assert "bot" in line


def test_a_question_is_answered_in_words(ready, capsys):
    question = ["ask", "--model", "bot", "--prompt", "Where was Mira born?", "--completion", " In Port Halvern."]
    assert cli.main([*question, "--top-k", "2", "--group-by", "tags.task"]) == 0
    text = capsys.readouterr().out
    for told in ("Trust: unmeasured", "tuned − base = +0.25", "Proponents", "Opponents", "Groups", "does not prove"):
        assert told in text
    first = next(line for line in text.splitlines() if line.strip().startswith("1 "))
    assert "born" in first
    assert "Where was Mira born? → In Port Halvern." in first


def test_a_question_is_answered_in_json(ready, capsys):
    answer = run_json(
        capsys,
        "ask",
        "--model",
        "bot",
        "--prompt",
        "Mira",
        "--generate",
        "--no-opponents",
        "--exclude",
        "born",
        "--tag",
        "task=facts",
    )
    assert [hit["example_id"] for hit in answer["proponents"]] == ["sea"]
    assert answer["opponents"] == []
    assert answer["query"]["completion"] == " generated answer"


def test_messages_come_from_a_file(ready, capsys, tmp_path):
    file = tmp_path / "chat.json"
    file.write_text(
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]}'
    )
    assert run_json(capsys, "ask", "--model", "bot", "--messages", str(file))["query"]["completion"] == "Hello there"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "a"],
        ["--completion", "b"],
        ["--prompt", "a", "--completion", "b", "--generate"],
        ["--prompt", "a", "--completion", "b", "--span", "3"],
        ["--prompt", "a", "--completion", "b", "--tag", "novalue"],
        ["--prompt", "a", "--completion", "b", "--top-k", "0"],
    ],
)
def test_a_question_badly_put_is_bad_usage(arguments, capsys):
    refused(capsys, "ask", "--model", "bot", *arguments, code=2)


def test_what_the_server_refuses_is_one_line_with_the_remedy(ready, capsys):
    line = refused(capsys, "ask", "--model", "bot", "--prompt", "a", "--completion", "b", "--method", "repsim", code=1)
    assert "cannot serve 'repsim'" in line
    assert "— " in line


def test_no_server_is_one_line_with_the_remedy(capsys, monkeypatch):
    monkeypatch.setattr("whence_client.sync.time.sleep", lambda _seconds: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        line = refused(capsys, "model", "list", "--url", f"http://127.0.0.1:{free.getsockname()[1]}", code=1)
    assert "whence serve" in line


def test_ctrl_c_while_waiting_leaves_the_job_running_and_says_how_to_follow_it(registered, engine, capsys, monkeypatch):
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("app.commands.progress.PhaseBars.show", interrupted)
    engine.step_seconds = 0.05
    assert cli.main(["index", "build", "--model", "bot", "--dataset", "train"]) == 130
    assert "whence jobs watch job_" in capsys.readouterr().err


# --- without a server ---


def test_methods_need_no_server(capsys):
    assert {"ekfac", "bm25"} <= {method["name"] for method in run_json(capsys, "methods")}
    assert cli.main(["methods", "ekfac"]) == 0
    assert "damping=" in capsys.readouterr().out


def test_an_unknown_method_names_the_nearest(capsys):
    assert "'ekfac'" in refused(capsys, "methods", "ekfak", code=2)


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["index", "build"], ["jobs", "show"], ["model", "list", "--limit", "0"]]
)
def test_bad_usage_is_code_2(arguments, capsys):
    refused(capsys, *arguments, code=2)


def test_no_arguments_show_the_help(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "serve" in captured.out
    assert captured.err == ""


def test_every_command_takes_json():
    """The demo alone is a tour for people."""

    def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        for command in group.registered_commands:
            yield " ".join((*path, command.name or command.callback.__name__)), command.callback
        for child in group.registered_groups:
            yield from commands(child.typer_instance, (*path, child.name))

    assert [name for name, callback in commands(cli.app) if "json_" not in callback.__annotations__] == ["demo"]


def test_an_unexpected_error_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("app.commands.methods.method_specs", lambda: 1 / 0)
    line = refused(capsys, "methods", code=1)
    assert "ZeroDivisionError" in line
    assert "WHENCE_TRACEBACK" in line


def test_a_bad_setting_is_named(capsys, monkeypatch):
    monkeypatch.setenv("WHENCE_MAX_QUEUE", "many")
    assert "WHENCE_MAX_QUEUE" in refused(capsys, "migrate", code=2)


def test_migrate_says_where_the_database_is(tmp_path, capsys):
    home = tmp_path / "home"
    assert run_json(capsys, "migrate", "--home", str(home))["before"] is None
    again = run_json(capsys, "migrate", "--home", str(home))
    assert again["before"] == again["after"]


def test_printed_training_text_cannot_control_the_terminal():
    assert clean("\x1b[31m[red]x\x9b\n").plain == "�[31m[red]x�\n"


@pytest.mark.parametrize(("value", "shown"), [(0, "0 B"), (1536, "1.5 KB"), (2_000_000, "2.0 MB"), (None, "")])
def test_sizes_are_readable(value, shown):
    assert size(value) == shown


# --- serve ---


def test_leaving_loopback_without_keys_must_be_said(capsys):
    line = refused(capsys, "serve", "--host", "0.0.0.0", code=2)
    assert "--without-keys" in line
    assert "anyone who can reach" in line


def test_a_taken_port_is_refused_in_words(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused(capsys, "serve", "--home", str(tmp_path), "--port", port, code=1)
    assert f"Port {port}" in line
    assert "--port" in line


def test_serve_answers_and_ctrl_c_ends_it_while_a_second_one_is_refused(tmp_path):
    command = [sys.executable, "-m", "app.cli", "serve", "--home", str(tmp_path / "home"), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            listed = subprocess.run(
                [sys.executable, "-m", "app.cli", "model", "list", "--json", "--url", told["url"]],
                capture_output=True,
                text=True,
            )
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert json.loads(listed.stdout)["data"] == []
    assert second.returncode == 1
    assert f"in use by another whence server (process {process.pid})" in second.stderr
    assert second.stderr.count("\n") == 1
    assert process.returncode == 130
    assert "Traceback" not in errors


# --- score ---

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


def test_commands_start_without_torch():
    """`whence methods` and its like must answer at once."""
    code = "import sys, app.cli; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": "."}).returncode == 0
    assert time.monotonic() - began < 20
