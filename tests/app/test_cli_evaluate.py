"""`whence evaluate`, and what `whence ask` says about trust: a real server, with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli
from app.commands.evaluate import duration
from tests.app.commands import refused, run_json
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, jsonl

LEAST = ("-o", "leave_out_rows=1")
ASK = ("ask", "--model", "bot", "--prompt", "Where was Mira born?", "--completion", " In Port Halvern.")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(autouse=True)
def ready(
    tmp_path: Path,
    model_dir: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[None]:
    """An index called mine of a model whose training is known."""
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "train.jsonl").write_bytes(jsonl())
    with serving(make_settings(tmp_path), engine) as url:
        monkeypatch.setenv("WHENCE_URL", url)
        monkeypatch.setenv("COLUMNS", "200")
        model = ("model", "add", "bot", "--base", str(model_dir), "--recipe", str(tmp_path / "recipe.json"))
        for command in (model, ("dataset", "add", str(tmp_path / "train.jsonl"))):
            assert cli.main(command) == 0
        assert cli.main(["index", "build", "--model", "bot", "--dataset", "train", "--name", "mine"]) == 0
        capsys.readouterr()
        yield


def test_an_evaluation_tells_its_cost_first_and_its_verdicts_last(capsys):
    assert cli.main(["evaluate", "mine", "--half-subsets", "6", "--candidate", 'kfac:{"damping": 0.5}', *LEAST]) == 0
    printed = capsys.readouterr()
    assert "6 retrainings, 2 at once: about 3 minutes (counted subsets)." in printed.err
    text = " ".join(printed.out.split())
    assert "ekfac index 0.70 (0.60 to 0.80) trusted 0.70 (0.60 to 0.80) trusted" in text
    assert "kfac candidate 0.80 (0.70 to 0.90) trusted" in text
    assert "bm25 control 0.20 (0.10 to 0.30) weak" in text
    assert "trusted: Retraining said so of ekfac." in text
    assert "Rows that are known to matter: P@3 0.75 · mislabelled AUROC 0.50" in text
    assert "`auto` takes kfac (composition)." in text
    assert "12 retrainings · 4 questions" in text


def test_an_estimate_is_all_that_is_wanted(engine, capsys):
    cost = run_json(capsys, "evaluate", "mine", "--estimate", "--half-subsets", "5", *LEAST)
    assert (cost["retrainings"], cost["seconds"]) == (5, 150.0)
    assert cli.main(["evaluate", "mine", "--estimate", "--half-subsets", "5", *LEAST]) == 0
    assert "5 retrainings" in capsys.readouterr().out
    assert "evaluate" not in [name for name, _ in engine.calls]


def test_questions_come_from_a_file(tmp_path, engine, capsys):
    file = tmp_path / "questions.jsonl"
    file.write_text(
        '{"id": "q1", "prompt": "Mira", "completion": " born", "group": "mira", "relevant": {"task": "facts"}}\n'
        '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there"}]}\n'
    )
    made = run_json(capsys, "evaluate", "mine", "--queries", str(file), "--log-odds", "--name", "first", *LEAST)
    assert (made["state"], made["name"], made["measurement"]) == ("ready", "first", "log_odds")
    first, second = next(arguments[3] for name, arguments in engine.calls if name == "evaluate")
    assert (first.query.prompt, first.group, first.relevant) == ("Mira", "mira", {"task": "facts"})
    assert second.query.messages[1].content == "Hello there"


def test_no_wait_returns_the_job(engine, capsys):
    engine.gate.clear()
    made = run_json(capsys, "evaluate", "mine", "--no-wait", *LEAST)
    assert made["state"] in ("queued", "running")
    engine.gate.set()
    assert cli.main(["jobs", "watch", made["job_id"]]) == 0
    assert "evaluation.run" in capsys.readouterr().out


def test_ctrl_c_leaves_the_job_running(engine, monkeypatch, capsys):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    engine.gate.clear()
    monkeypatch.setattr("app.commands.progress.PhaseBars.show", interrupted)
    assert cli.main(["evaluate", "mine", *LEAST]) == 130
    told = capsys.readouterr().err
    assert "The job goes on" in told
    job = run_json(capsys, "jobs", "list")["data"][0]
    assert (job["kind"], job["state"]) == ("evaluation.run", "running")
    engine.gate.set()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("evaluate", "yours"), 2, "mine"),
        (("evaluate", "mine", "--candidate", "kfac:damping"), 2, "METHOD:JSON"),
        (("evaluate", "mine", "--candidate", "kfca", *LEAST), 1, "'kfac'"),
        (("evaluate", "mine", "-o", "subsets=3"), 1, "subsets"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, code, told, capsys):
    assert told in refused(capsys, *arguments, code=code)


def test_a_file_that_is_not_json_names_its_line(tmp_path, capsys):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"prompt": "a", "completion": " b"}\nnot json\n')
    assert "Line 2" in refused(capsys, "evaluate", "mine", "--queries", str(file), code=1)


def test_an_answer_tells_how_far_to_trust_it(engine, capsys):
    assert cli.main(ASK) == 0
    before = " ".join(capsys.readouterr().out.split())
    assert "Trust: unmeasured" in before
    assert "What to do: whence evaluate idx_" in before
    assert "Effect:" not in before
    engine.verdict = "weak"
    assert cli.main(["evaluate", "mine", *LEAST]) == 0
    capsys.readouterr()
    assert cli.main(ASK) == 0
    text = " ".join(capsys.readouterr().out.split())
    for told in (
        "Trust: weak (Retraining said so of ekfac.)",
        "What to do: Read it beside BM25.",
        "Single rows of this run: weak",
        "This question: For outputs like this one the ranking was more reliable than for most",
        "-2.5 (-2.6 to -2.4)",
        "Effect: predicted change of this output, in nats",
    ):
        assert told in text
    assert cli.main([*ASK, "--log-odds"]) == 0
    assert "Trust: weak, extrapolated (This is extrapolated:" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("seconds", "said"), [(42.4, "42 seconds"), (400, "7 minutes"), (12600, "3.5 hours")])
def test_durations_are_readable(seconds, said):
    assert duration(seconds) == said
