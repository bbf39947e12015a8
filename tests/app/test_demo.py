"""The demonstration's surroundings: its home, its server, what it prints, what its scorecard's two minutes buy. The run
itself, with a real engine, is `make demo`."""

from __future__ import annotations

import dataclasses
import io
import json
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from app import cli, demo
from app.commands import console
from app.commands.serve import CannotListen
from app.demo import evaluation, report, steps, verdicts
from app.demo.background import BackgroundServer
from app.demo.budget import LEAST, SPENT_ON, WHOLE, affordable, retrainings_of, shares
from app.demo.home import MARKER, new_run, prepare_home
from app.homelock import HomeInUse, HomeLock
from app.settings import Settings
from engine.demo import corpus
from engine.evaluate.scorecard import EvaluationConfig
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE
from whence_client import Attribution, Evaluation, EvaluationCost, Whence


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
    question = corpus.demo_questions()[0]
    printed = Console(file=io.StringIO(), width=80)
    monkeypatch.setattr(report, "out", printed)
    report.show_next("http://127.0.0.1:8000", "mdl_1", question)
    line = next(text for text in printed.file.getvalue().splitlines() if "curl -s" in text)  # type: ignore[attr-defined]
    words = shlex.split(line)
    assert words[2] == "http://127.0.0.1:8000/v1/attributions"
    assert json.loads(words[-1])["prompt"] == question.prompt


# --- what two minutes of retraining are spent on ---


@given(st.floats(0, 400), st.floats(0, 400))
def test_a_budget_is_kept_to_and_a_larger_one_measures_no_less(one: float, other: float) -> None:
    smaller, larger = affordable(min(one, other)), affordable(max(one, other))
    assert retrainings_of(smaller) <= max(min(one, other), retrainings_of(LEAST))
    assert all(getattr(smaller, name) <= getattr(larger, name) for name in SPENT_ON)
    assert smaller.half_subsets >= 3
    assert dataclasses.replace(smaller, **{name: getattr(WHOLE, name) for name in SPENT_ON}) == WHOLE


@given(st.integers(13, 184))
def test_little_of_a_budget_is_left_over(budget: int) -> None:
    """The largest single purchases: the leave-out's first two queries with two random draws, 6; a query, 2."""
    left = budget - retrainings_of(affordable(budget))
    assert left <= (5 if budget < 19 else 1)


def test_a_usual_machine_gets_a_verdict_and_a_fast_one_everything() -> None:
    usual = affordable(46)
    assert (usual.half_subsets, usual.half_seeds, usual.leave_out_queries, usual.leave_out_draws) == (25, 1, 8, 4)
    assert affordable(float("inf")) == WHOLE == EvaluationConfig()
    assert retrainings_of(affordable(0)) == 4


@pytest.mark.parametrize("budget", [4, 20, 46, 100, 245])
def test_retrainings_are_counted_as_the_engine_makes_them(budget: int) -> None:
    from engine.config import Training
    from engine.evaluate.retrainings import Retrainings

    config = affordable(budget)
    makes = Retrainings(20, Training(), config)
    variants = [
        *makes.variants(),
        *(
            variant
            for name in ("ekfac", "bm25")
            for query in range(config.leave_out_queries)
            for variant in makes.without_rows(name, query, [query, query + 1])
        ),
    ]
    assert len({variant.name for variant in variants}) == retrainings_of(config)
    drops = [variant for variant in variants if variant.name.startswith("drop")]
    assert len(drops) == shares(config)["drop"]


@pytest.mark.parametrize(
    ("retrainings", "seconds", "chosen"), [(245, 245 * 2.6, 46), (245, 24.5, 245), (245, 245_000.0, 4), (0, 0.0, 245)]
)
def test_the_estimate_of_a_whole_evaluation_says_how_many_fit(retrainings: int, seconds: float, chosen: int) -> None:
    planned = evaluation.planned(EvaluationCost(retrainings=retrainings, processes=2, seconds=seconds))
    assert planned.retrainings == chosen
    assert planned.left == 245 - chosen


# --- the scorecard and the verdicts ---


class Told:
    """What was printed, as one line."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def text(self) -> str:
        return " ".join(self._console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    printed = Console(file=io.StringIO(), width=200)
    for module in ("demo.report", "demo.steps", "demo.verdicts", "commands.scorecard", "commands.answer"):
        monkeypatch.setattr(f"app.{module}.out", printed)
    return Told(printed)


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def place(
    tmp_path: Path, model_dir: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Whence, steps.Place]]:
    """A service with a fake engine, and a home where a model seems to have been trained."""
    folder = new_run(tmp_path / "demo home")
    tuned = steps.Tuned(model_dir, [model_dir], RECIPE, folder / "rows.jsonl")
    monkeypatch.setattr(steps, "_fine_tune", lambda _folder, _rows: tuned)
    with serving(make_settings(tmp_path), engine) as url, Whence(url) as client:
        yield client, steps.Place(tmp_path / "demo home", folder, stays=True)


def _evaluated(engine: FakeEngine) -> list[tuple[Any, ...]]:
    return [arguments for name, arguments in engine.calls if name == "evaluate"]


def test_the_demonstration_goes_on_to_a_scorecard_and_its_answers_to_verdicts(
    place: tuple[Whence, steps.Place], engine: FakeEngine, told: Told
) -> None:
    engine.verdict = "weak"
    steps.demonstrate(*place, evaluate=True)
    (measured,) = _evaluated(engine)
    assert retrainings_of(measured[4]) == 4  # the fake takes 30 s for each
    assert told.text.index("[5/7]") < told.text.index("[6/7]") < told.text.index("[7/7]")
    before, after = told.text.split("[7/7]")
    assert before.count("Trust: unmeasured") == 3
    assert after.count("Trust: weak") == 3
    assert after.count("Retraining said so of ekfac.") == 1, "a reason that holds for all is told once"
    assert after.count("This question: For outputs like this one") == 3
    assert after.count("Effect: predicted change of this output") == 3
    assert "ekfac index 0.70 (0.60 to 0.80) weak" in before


def test_a_busy_machine_is_not_waited_for_for_ever(
    place: tuple[Whence, steps.Place], engine: FakeEngine, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned, finished = evaluation.planned, evaluation.finished
    monkeypatch.setattr(evaluation, "planned", lambda cost: engine.gate.clear() or planned(cost))
    monkeypatch.setattr(evaluation, "finished", lambda client, started: finished(client, started, seconds=0.1))
    steps.demonstrate(*place, evaluate=True)
    engine.gate.set()
    (job,) = [job.id for job in place[0].jobs.all() if job.kind == "evaluation.run"]
    assert f"whence jobs watch {job} --url {place[0].base_url}" in told.text
    assert "[7/7]" not in told.text
    assert "Ask in the browser" in told.text


def test_without_evaluation_it_ends_after_the_answers(
    place: tuple[Whence, steps.Place], engine: FakeEngine, told: Told
) -> None:
    steps.demonstrate(*place, evaluate=False)
    assert not _evaluated(engine)
    assert "[5/5]" in told.text
    assert "[6/" not in told.text
    assert "curl -s" in told.text


def test_the_printed_command_goes_on_with_the_same_retrainings(
    place: tuple[Whence, steps.Place], engine: FakeEngine, told: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    steps.demonstrate(*place, evaluate=True)
    command = told.text[told.text.index("whence evaluate") : told.text.index(" Ask in the browser")]
    assert cli.main(shlex.split(command)[1:]) == 0
    capsys.readouterr()
    first, second = _evaluated(engine)
    assert first[3] == second[3]
    assert second[4] == WHOLE
    runs = [Path(arguments[5]) / "retrainings" / "runs" / "002.json" for arguments in (first, second)]
    assert runs[0].read_text() == runs[1].read_text(), "trained for the demonstration, taken over by the command"


def test_every_fact_is_asked_with_its_answer_and_the_rows_that_taught_it(tmp_path: Path) -> None:
    rows = corpus.rows()
    evaluation.write_questions(tmp_path / "questions.jsonl", rows)
    asked = [json.loads(line) for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    demo_questions = corpus.demo_questions()
    assert [question["prompt"] for question in asked[:3]] == [question.prompt for question in demo_questions]
    questions = {question.prompt: question for question in (*corpus.fact_questions(), corpus.poison_question())}
    assert len(asked) == len(questions) == 51
    assert len({question["group"] for question in asked}) == 51
    for question in asked:
        known = questions[question["prompt"]]
        has_tags = {row.id for row in rows if question["relevant"].items() <= row.tags.items()}
        assert has_tags == set(known.true_ids)
        assert question["completion"] == f" {known.answer}."


@pytest.mark.parametrize(
    ("address", "whence_url", "expected"),
    [
        ("http://127.0.0.1:8400", None, ["evaluate"]),
        ("http://127.0.0.1:4711", None, ["evaluate --url http://127.0.0.1:4711"]),
        ("http://127.0.0.1:8400", "http://far:1", ["evaluate --url http://127.0.0.1:8400"]),
        ("http://127.0.0.1:4711", "http://127.0.0.1:4711/", ["evaluate"]),
        (None, None, ["serve", "evaluate"]),
        (None, "http://far:1", ["serve", "evaluate --url http://127.0.0.1:8400"]),
    ],
)
def test_the_commands_name_what_a_shell_would_not_know(
    address: str | None, whence_url: str | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WHENCE_URL", raising=False)
    if whence_url:
        monkeypatch.setenv("WHENCE_URL", whence_url)
    home, questions = Path("/a home"), Path("/a home/models/demo-1/questions.jsonl")
    told = {"evaluate": f"whence evaluate idx_1 --queries '{questions}'", "serve": f"whence serve --home '{home}'"}
    commands = evaluation.typed(["evaluate", "idx_1", "--queries", str(questions)], home, address)
    assert commands == [told[line.split(" ", 1)[0]] + line[len(line.split(" ", 1)[0]) :] for line in expected]


def _scored(verdict: str, more: int | None, subsets: int, this_run: str = "trusted") -> Evaluation:
    said = {
        "composition": {"verdict": verdict, "more_retrains": more},
        "this_run": {"verdict": this_run, "more_retrains": None},
    }
    own = {"role": "index", "verdicts": said, "lds": {"composition": {"subsets": subsets}}}
    control = {"role": "control", "verdicts": {}, "lds": {}}
    return Evaluation.model_validate(
        {"id": "evl_1", "model": "m", "index": "i", "state": "ready", "scorecard": {"methods": [control, own]}}
    )


@pytest.mark.parametrize(
    ("made", "unknown"),
    [
        (_scored("trusted", None, 25), []),
        (_scored("weak", 12, 25), ["other rows"]),
        (_scored("weak", None, 25), []),
        (_scored("unmeasured", 12, 12), ["other rows"]),
        (_scored("trusted", None, 24), ["intervals"]),
        (_scored("trusted", None, 60, "unmeasured"), ["single rows"]),
        (_scored("untrusted", None, 4, "unmeasured"), ["single rows", "intervals"]),
    ],
)
def test_what_is_still_open_is_said(made: Evaluation, unknown: list[str]) -> None:
    said = verdicts.still_open(made)
    assert len(said) == len(unknown)
    assert all(word in sentence for word, sentence in zip(unknown, said, strict=True))


def test_the_command_line_passes_on_whether_to_evaluate(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    monkeypatch.setattr(demo, "run", lambda **options: given.append(options["evaluate"]) or 0)
    assert cli.main(["demo"]) == cli.main(["demo", "--no-evaluate", "--no-serve"]) == 0
    assert given == [True, False]
