"""What an answer says about trust: verdicts of both questions, what lies beyond the evidence, and effects in nats."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import pytest

from engine.evaluate import reliability_model
from engine.evaluate.effect_model import EffectModel
from engine.evaluate.scope import WIDENED
from engine.evaluate.scorecard import (
    Compared,
    EvaluationConfig,
    LdsEvidence,
    MethodEvidence,
    Role,
    Scope,
    Scorecard,
    Verdict,
)
from engine.evaluate.trust import scope_features, scope_ranges, trust_of
from engine.types import Attribution, Diagnostics, Hit, Measurement, Token

COMMAND = "whence evaluate idx_1"
MODEL = EffectModel(100, 10.0, 8.0, 12.0, 0.5, 0.1, 0.2, 2.0, 0.9, True, True, 20, 60)


def hit(position: int, score: float) -> Hit:
    return Hit(1, position, f"row-{position}", score, None, 99.0)


def answer(**changes: Any) -> Attribution:
    tokens = (Token("a", 0, 1, "prompt", False), Token("b", 0, 1, "completion", True))
    return replace(
        Attribution(
            method="ekfac",
            signed=True,
            additive=True,
            revision="r1",
            prompt="a",
            completion="b",
            tokens=tokens,
            measurement=Measurement("log_prob", -2.0, 4),
            tuned_minus_base=3.0,
            proponents=(hit(5, 2.0), hit(7, 1.0)),
            opponents=(hit(9, -1.0),),
            groups=None,
            diagnostics=Diagnostics(None, None, None, None, 100, 100),
            timings_ms={},
        ),
        **changes,
    )


def evidence(name: str = "ekfac", role: Role = "index", **options: Any) -> MethodEvidence:
    lds = LdsEvidence(0.8, 0.7, 0.9, 0.95, 1.0, 60, 2, {"random": Compared(0.8, 0.7, 0.9, 0.0)})
    verdicts = {"composition": Verdict("trusted", "It agrees."), "this_run": Verdict("weak", "So so.", "Do more.", 9)}
    return MethodEvidence(name, role, name, options, {"composition": lds}, verdicts)  # type: ignore[arg-type]


def scorecard(**changes: Any) -> Scorecard:
    ranges = scope_ranges(
        [scope_features(answer()), scope_features(answer(measurement=Measurement("log_prob", -9, 8)))]
    )
    return replace(
        Scorecard(
            index_revision="r1",
            config=EvaluationConfig(),
            scope=Scope("log_prob", "20 queries given with the evaluation", ranges),
            rows=100,
            test_queries=(0,),
            tuning_queries=(),
            methods=(evidence(), evidence("bm25", "control")),
            metasmoothness=None,
            retrainings=120,
            seconds=1.0,
            effects={"this_run": MODEL.to_json()},
        ),
        **changes,
    )


def test_without_a_scorecard_the_one_command_is_the_remedy() -> None:
    found = trust_of(None, answer(), remedy_command=COMMAND)
    assert (found.verdict, found.remedy, found.effects, found.reliability) == ("unmeasured", COMMAND, None, None)
    assert {question: each.verdict for question, each in found.questions.items()} == {
        "composition": "unmeasured",
        "this_run": "unmeasured",
    }
    assert not found.scope.extrapolated
    assert "not been evaluated" in found.reason


def test_the_headline_is_composition_and_both_questions_have_their_figures() -> None:
    found = trust_of(scorecard(), answer(), remedy_command=COMMAND)
    assert (found.verdict, found.reason, found.remedy) == ("trusted", "It agrees.", None)
    composition, this_run = found.questions["composition"], found.questions["this_run"]
    assert (composition.lds, composition.low, composition.high, composition.ceiling) == (0.8, 0.7, 0.9, 0.95)
    assert (this_run.verdict, this_run.more_retrains, this_run.lds) == ("weak", 9, None)
    assert found.scope == type(found.scope)(False, (), "log_prob", "20 queries given with the evaluation")


def test_a_method_that_was_not_evaluated_is_unmeasured() -> None:
    found = trust_of(scorecard(), answer(method="kfac"), remedy_command=COMMAND)
    assert (found.verdict, found.remedy, found.effects) == ("unmeasured", COMMAND, None)
    assert "kfac" in found.reason
    assert found.scope.queries == "20 queries given with the evaluation"


def test_an_undecided_verdict_keeps_its_words_and_gets_the_command() -> None:
    open_ = replace(evidence(), verdicts={"composition": Verdict("unmeasured", "Open.", "Evaluate again.", 30)})
    found = trust_of(scorecard(methods=(open_,)), answer(), remedy_command=COMMAND)
    assert (found.verdict, found.remedy) == ("unmeasured", f"Evaluate again. {COMMAND}")
    assert found.questions["this_run"].verdict == "unmeasured"


BEYOND = {
    "another index": ({"revision": "r2"}, "another index"),
    "another measurement": ({"measurement": Measurement("log_odds", -2.0, 4)}, "log_odds"),
    "cosines": ({"additive": False}, "cosine"),
    "a long completion": ({"measurement": Measurement("log_prob", -60.0, 60)}, "60 explained tokens"),
    "an unlikely completion": ({"measurement": Measurement("log_prob", -80.0, 4)}, "nats of measurement"),
    "nothing learned": ({"tuned_minus_base": -5.0}, "nats gained by fine-tuning"),
}


@pytest.mark.parametrize("case", BEYOND)
def test_beyond_the_evidence_the_verdict_says_extrapolated(case: str) -> None:
    changes, said = BEYOND[case]
    found = trust_of(scorecard(), answer(**changes), remedy_command=COMMAND)
    assert found.scope.extrapolated
    assert len(found.scope.reasons) == 1
    assert said in found.scope.reasons[0]
    assert found.reason.startswith("This is extrapolated: ")
    assert found.reason.endswith("It agrees.")
    assert found.verdict == "trusted"
    assert COMMAND in (found.remedy or "")


def test_an_untrusted_verdict_keeps_its_own_remedy_beyond_the_evidence() -> None:
    bad = replace(evidence(), verdicts={"composition": Verdict("untrusted", "Bad.", "Ask BM25.")})
    found = trust_of(scorecard(methods=(bad,)), answer(revision="r2"), remedy_command=COMMAND)
    assert (found.verdict, found.remedy) == ("untrusted", "Ask BM25.")


def test_an_index_of_cosines_was_evaluated_as_such() -> None:
    cosines = scorecard(methods=(evidence(normalize="cosine"),))
    assert not trust_of(cosines, answer(additive=False), remedy_command=COMMAND).scope.extrapolated
    assert trust_of(cosines, answer(), remedy_command=COMMAND).scope.extrapolated


def test_several_kinds_of_measurement_may_be_in_the_scope() -> None:
    both = scorecard(scope=replace(scorecard().scope, measurement="log_odds, log_prob"))
    assert not trust_of(both, answer(), remedy_command=COMMAND).scope.extrapolated


def test_effects_of_all_hits_are_the_models_own() -> None:
    found = trust_of(scorecard(), answer(), remedy_command=COMMAND)
    assert found.effects == {
        "5": MODEL.predict(2.0, -2.0),
        "7": MODEL.predict(1.0, -2.0),
        "9": MODEL.predict(-1.0, -2.0),
    }
    assert found.effects["5"].value < 0 < found.effects["9"].value


@pytest.mark.parametrize(
    ("card", "changes"),
    [
        (scorecard(effects={}), {}),
        (scorecard(effects={"this_run": replace(MODEL, for_hits=False).to_json()}), {}),
        (scorecard(), {"revision": "r2"}),
        (scorecard(), {"method": "bm25", "additive": False}),
        (scorecard(), {"additive": False}),
        (scorecard(), {"measurement": Measurement("contrastive_log_prob", -2.0, 4)}),
    ],
)
def test_no_effects_where_the_model_was_not_fitted_on_these_scores(card: Scorecard, changes: dict[str, Any]) -> None:
    assert trust_of(card, answer(**changes), remedy_command=COMMAND).effects is None


@dataclass(frozen=True)
class _Reliability:
    value: float
    level: str


def test_reliability_is_handed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = {"tokens": 4.0}
    monkeypatch.setattr(reliability_model, "query_features", lambda found: tokens if found == answer() else {})
    monkeypatch.setattr(reliability_model, "predict", lambda model, q: _Reliability(model["a"] * q["tokens"], "low"))
    card = scorecard(reliability={"a": 0.1})
    assert trust_of(card, answer(), remedy_command=COMMAND).reliability == {"value": 0.4, "level": "low"}
    assert trust_of(card, answer(revision="r2"), remedy_command=COMMAND).reliability is None
    assert trust_of(scorecard(), answer(), remedy_command=COMMAND).reliability is None


def test_to_json_is_plain_json() -> None:
    found = trust_of(scorecard(), answer(revision="r2"), remedy_command=COMMAND).to_json()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"verdict", "reason", "remedy", "questions", "scope", "reliability", "effects"}
    full = trust_of(scorecard(), answer(), remedy_command=COMMAND).to_json()
    assert set(full["effects"]["5"]) == {"value", "low", "high", "level"}
    assert full["effects"]["5"]["level"] == 0.9


def test_trust_is_told_without_numpy_subprocess() -> None:
    """The base install has none (pyproject.toml, `tensors`)."""
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['scipy'] = sys.modules['torch'] = None; "
        "from engine.evaluate.trust import trust_of; from engine.evaluate.verdict import verdict; print('told')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.stdout == "told\n", result.stderr


# --- scope ---


def test_features_of_an_answer() -> None:
    assert scope_features(answer()) == {
        "completion_tokens": 4.0,
        "prompt_tokens": 1.0,
        "measurement_per_token": -0.5,
        "tuned_minus_base": 3.0,
    }
    assert "tuned_minus_base" not in scope_features(answer(tuned_minus_base=None))


def test_ranges_are_moved_out_on_both_sides_and_hold_their_own_queries() -> None:
    ranges = scope_ranges([{"a": 1.0}, {"a": 3.0, "b": -0.3}, {"a": 2.0, "b": -0.3}])
    assert ranges["a"] == pytest.approx((1 - 2 * WIDENED, 3 + 2 * WIDENED), rel=1e-5)
    assert ranges["b"][0] < -0.3 < ranges["b"][1]
    assert ranges["b"] == pytest.approx((-0.3, -0.3), rel=1e-5)
    assert scope_ranges([]) == {}


def test_a_feature_without_a_range_says_nothing() -> None:
    bare = scorecard(
        scope=Scope("log_prob", "queries", {"completion_tokens": (1.0, 9.0), "of another version": (0, 1)})
    )
    assert not trust_of(bare, answer(tuned_minus_base=-99.0), remedy_command=COMMAND).scope.extrapolated
