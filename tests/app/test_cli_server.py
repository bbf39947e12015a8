"""The commands that talk to a server: a real one, with a fake engine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli
from tests.app.commands import refused, run_json
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.questions import submitted
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


def test_leave_for_a_partial_index_and_what_of_a_model_is_tracked(registered, engine, capsys):
    build = ("index", "build", "--model", "bot", "--dataset", "train")
    run_json(capsys, *build)
    run_json(capsys, *build, "--allow-partial")
    asked = [arguments[2].options.allow_partial for name, arguments in engine.calls if name == "build_index"]
    assert asked == [False, True]
    assert cli.main(["model", "show", "bot"]) == 0
    assert "90.0% of the trained parameters can be tracked" in capsys.readouterr().out
    assert run_json(capsys, "model", "show", "bot")["coverage"]["share"] == 0.9


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


def test_log_odds_and_a_removal_are_asked_and_told(ready, engine, capsys):
    question = ["ask", "--model", "bot", "--prompt", "Mira", "--completion", " In Port Halvern.", "--log-odds"]
    assert cli.main([*question, "--removal-tag", "task=facts", "--removal-id", "sum"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "log-odds tuned − base" in text
    assert "Taking out 3 rows: joint score" in text and "predicted change" in text
    query, asked = submitted(engine)[0][3:]
    assert (query.measurement, asked.removal.ids) == ("log_odds", ("sum",))


def test_a_file_of_queries_is_asked_as_one_set(ready, engine, capsys, tmp_path):
    file = tmp_path / "set.jsonl"
    file.write_text(
        '{"id": "q1", "prompt": "Mira", "completion": " born", "contrast": " sea"}\n'
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]}\n'
    )
    assert cli.main(["ask", "--model", "bot", "--queries", str(file)]) == 0
    assert "(and 1 more: the mean over 2 queries)" in " ".join(capsys.readouterr().out.split())
    first, second = submitted(engine)[0][3].members
    assert (first.prompt, first.contrast, second.messages[0].content) == ("Mira", " sea", "Hi")


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
        ["--prompt", "a", "--completion", "b", "--removal-tag", "novalue"],
        ["--prompt", "a", "--completion", "b", "--queries", __file__],
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
