"""The demonstration's surroundings: its home, its server, what it prints. The run itself is `make demo`."""

from __future__ import annotations

import io
import socket
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from app.commands import console
from app.commands.serve import CannotListen
from app.demo import report
from app.demo.background import BackgroundServer
from app.demo.home import MARKER, new_run, prepare_home
from app.homelock import HomeInUse, HomeLock
from app.settings import Settings
from engine.demo import corpus
from whence_client import Attribution


def test_an_earlier_demonstration_is_removed_but_nothing_else(tmp_path: Path) -> None:
    ours = prepare_home(tmp_path / "ours")
    (ours / "whence.sqlite3").write_text("old", encoding="utf-8")
    assert prepare_home(ours) == ours
    assert [path.name for path in ours.iterdir()] == [MARKER]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "whence.sqlite3").write_text("precious", encoding="utf-8")
    assert prepare_home(theirs) == theirs
    assert (theirs / "whence.sqlite3").read_text(encoding="utf-8") == "precious"
    assert not (theirs / MARKER).exists()


def test_the_home_comes_from_the_option_then_the_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_home(None) == tmp_path / ".demo"
    monkeypatch.setenv("WHENCE_HOME", str(tmp_path / "set"))
    assert prepare_home(None) == tmp_path / "set"
    assert prepare_home(tmp_path / "given") == tmp_path / "given"


def test_a_home_that_a_server_works_in_is_left_alone(tmp_path: Path) -> None:
    home = prepare_home(tmp_path / "home")
    lock = HomeLock(home)
    lock.acquire()
    try:
        with pytest.raises(HomeInUse):
            prepare_home(home)
        assert (home / MARKER).is_file()
    finally:
        lock.release()


def test_each_run_in_a_kept_home_has_its_own_folder(tmp_path: Path) -> None:
    assert [new_run(tmp_path).name for _ in range(2)] == ["demo-1", "demo-2"]


def test_the_background_server_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", port=0, log_level="error")
    with BackgroundServer(settings, any_port=False) as server:
        assert httpx.get(f"{server.address}/livez").json() == {"status": "ok"}
        assert server.alive
    assert not server.alive
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{server.address}/livez")
    lock = HomeLock(tmp_path / "home")
    lock.acquire()  # raises unless the home is free again
    lock.release()


def test_a_taken_port_is_refused_when_it_was_asked_for_and_replaced_when_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(home=tmp_path / "home", port=port, log_level="error")
        with pytest.raises(CannotListen, match=str(port)):
            BackgroundServer(settings, any_port=False)
        with BackgroundServer(settings, any_port=True) as server:
            assert httpx.get(f"{server.address}/livez").status_code == 200
            assert not server.address.endswith(f":{port}")


def _answer(question: corpus.DemoQuestion, ids: list[str], completion: str) -> Attribution:
    hits = [
        {
            "rank": rank,
            "example_id": row_id,
            "score": 5.0 - rank,
            "tags": {"kind": "fact"},
            "prompt": "p",
            "completion": "c",
        }
        for rank, row_id in enumerate(ids, start=1)
    ]
    return Attribution.model_validate(
        {
            "id": "att_1", "model": "mdl_1", "index": "idx_1", "method": "ekfac", "proponents": hits,
            "measurement": {"kind": "log_prob", "value": -1.0, "tokens": 2}, "trust": {"verdict": "unmeasured"},
            "query": {"prompt": question.prompt, "completion": completion}, "tuned_minus_base": 3.0,
        }
    )  # fmt: skip


def test_true_sources_are_counted_among_the_top_three_only() -> None:
    question = corpus.fact_questions()[0]
    a, b, c, _ = question.true_ids
    assert report.found(question, _answer(question, [a, "row-9", b, c], "x")) == 2
    assert report.found(question, _answer(question, ["row-7", "row-8", "row-9", a], "x")) == 0


@pytest.mark.parametrize(("right", "word"), [(True, "right"), (False, "wrong")])
def test_the_verdict_says_whether_the_answer_is_the_one_that_was_taught(
    right: bool, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = corpus.fact_questions()[0]
    printed = Console(file=io.StringIO(), width=200)
    monkeypatch.setattr(console, "out", printed)
    monkeypatch.setattr(report, "out", printed)
    completion = f" {question.answer}." if right else " something else."
    report.show_answer(1, question, _answer(question, [*question.true_ids[:2], "row-9"], completion))
    shown = printed.file.getvalue()  # type: ignore[attr-defined]
    assert f"The answer is {word}" in shown
    assert "2 of the top 3 rows are among the 4 that taught it" in shown
    assert shown.count("✓") == 2


def test_the_printed_curl_command_is_one_line_that_a_shell_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    import json
    import shlex

    question = corpus.demo_questions()[0]
    printed = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(report, "out", printed)
    report.show_next("http://127.0.0.1:8000", "mdl_1", question)
    line = next(text for text in printed.file.getvalue().splitlines() if "curl -s" in text)  # type: ignore[attr-defined]
    words = shlex.split(line)
    assert words[2] == "http://127.0.0.1:8000/v1/attributions"
    assert json.loads(words[-1])["prompt"] == question.prompt
