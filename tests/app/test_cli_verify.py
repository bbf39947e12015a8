"""`whence verify`: a real server, with a fake engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import cli
from app.checks.words import apart, percent, probability_words, signed
from tests.app.commands import refused, run_json
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.live import serving
from tests.app.resources import RECIPE, jsonl

ASK = ("ask", "--model", "bot", "--prompt", "Where was Mira born?", "--completion", " In Port Halvern.")


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def answer(
    tmp_path: Path,
    model_dir: Path,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[str]:
    """The id of an answer of a model whose training is known."""
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE))
    (tmp_path / "train.jsonl").write_bytes(jsonl())
    with serving(make_settings(tmp_path), engine) as url:
        monkeypatch.setenv("WHENCE_URL", url)
        monkeypatch.setenv("COLUMNS", "200")
        model = ("model", "add", "bot", "--base", str(model_dir), "--recipe", str(tmp_path / "recipe.json"))
        for command in (model, ("dataset", "add", str(tmp_path / "train.jsonl"))):
            assert cli.main(command) == 0
        assert cli.main(["index", "build", "--model", "bot", "--dataset", "train"]) == 0
        capsys.readouterr()
        yield run_json(capsys, *ASK)["id"]


def test_a_check_tells_its_cost_first_and_what_was_measured_last(answer, capsys):
    assert cli.main(["verify", answer, "--rows", "2", "--seeds", "4"]) == 0
    printed = capsys.readouterr()
    assert "4 retrainings: about 8 seconds, 1.0 MB of memory." in printed.err
    text = " ".join(printed.out.split())
    assert "The output's log-probability fell from -2.10 to -5.30 nats when the 2 top rows were left out" in text
    assert "These rows mattered more than chance explains (-3.10 nats, 95 %: -3.70 to -2.50)." in text
    assert "The output's probability fell from 12 % to 0.5 %." in text
    assert "without the top rows 2 4 -2.1 -5.3 -3.2 -3.6 to -2.8" in text
    assert "every row kept" in text  # a narrow terminal folds the rest
    assert "born" in text and "These figures are made up." in " ".join((printed.out + printed.err).split())
    assert "12 retrainings · leave_out" in text
    assert cli.main(list(ASK)) == 0
    assert "Measured on this very answer" in capsys.readouterr().out


def test_an_estimate_is_all_that_is_wanted(answer, engine, capsys):
    cost = run_json(capsys, "verify", answer, "--estimate", "--seeds", "5", "--rows", "1")
    assert cost == {"retrainings": 5, "seconds": 10.0, "memory_bytes": 1 << 20}
    assert cli.main(["verify", answer, "--estimate", "--rows", "1"]) == 0
    assert "3 retrainings" in capsys.readouterr().out
    assert "check" not in [name for name, _ in engine.calls]


def test_every_option_reaches_the_engine(answer, engine, capsys):
    options = ("--rows", "1", "--draws", "2", "--learning-rate", "0.5", "--seed", "7", "--name", "mine")
    made = run_json(capsys, "verify", answer, "--kind", "tail_patch", *options)
    assert (made["kind"], made["name"], made["state"]) == ("tail_patch", "mine", "ready")
    config = next(arguments[5] for name, arguments in engine.calls if name == "check")
    assert (config.rows, config.draws, config.learning_rate, config.seed) == (1, 2, 0.5, 7)


def test_unlearning_names_the_new_version(answer, engine, capsys):
    assert cli.main(["verify", answer, "--kind", "unlearn", "--id", "born", "--how", "influence"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "the mean loss a token went from 2.000 to 2.250" in text and "The new version of the model is mdl_" in text
    config = next(arguments[5] for name, arguments in engine.calls if name == "check")
    assert (config.ids, config.how) == (("born",), "influence")


def test_a_flip_says_which_rows_and_what_is_said_then(answer, capsys):
    assert cli.main(["verify", answer, "--kind", "flip", "--rows", "1"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Without born the answer changes." in text
    assert "“In Port Halvern.” before, “Elsewhere.” after" in text


def test_without_waiting_the_job_is_named_and_goes_on(answer, engine, capsys):
    engine.gate.clear()
    made = run_json(capsys, "verify", answer, "--rows", "1", "--no-wait")
    assert made["state"] == "queued"
    assert cli.main(["jobs", "cancel", made["job_id"]]) == 0
    engine.gate.set()
    assert cli.main(["jobs", "watch", made["job_id"]]) in (0, 1)
    assert cli.main(["jobs", "resume", made["job_id"]]) == 0
    assert cli.main(["jobs", "watch", made["job_id"]]) == 0


def test_what_is_wrong_is_one_line(answer, capsys):
    assert "There is no attribution 'att_none'" in refused(capsys, "verify", "att_none", code=1)
    assert "rows is 9" in refused(capsys, "verify", answer, "--rows", "9", code=1)


def test_figures_have_the_digits_that_tell_them_apart():
    assert apart(-2.1, -5.3) == ("-2.10", "-5.30") == apart(-2.1, -5.3)
    assert apart(-0.2161, -0.2164) == ("-0.2161", "-0.2164") and apart(-1.0, -1.0) == ("-1.00", "-1.00")
    assert [signed(x) for x in (-3.557, 0.0328, -0.00041, 0.0)] == ["-3.56", "+0.033", "-0.00041", "+0.00"]


def test_probabilities_are_told_by_the_token_where_the_whole_says_little():
    assert probability_words(-0.1, -3.0, "log_prob", 4) == "The output's probability fell from 90 % to 5 %."
    assert probability_words(-20.0, -24.0, "log_prob", 10) == (
        "The mean probability of its 10 tokens (geometric) fell from 14 % to 9.1 %."
    )
    assert probability_words(-3.0, -2.0, "log_prob", 1).startswith("The output's probability rose")
    assert probability_words(-3.0, -4.0, "log_odds", 3) == "" == probability_words(None, -1.0, "log_prob", 3)
    assert [percent(x) for x in (0.5, 0.051, 0.00012, 1e-9)] == ["50 %", "5.1 %", "0.012 %", "1e-07 %"]
