"""LocalEngine: the engine starts with its first use, and says so when it cannot."""

from __future__ import annotations

import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from app.engine_client import LocalEngine
from engine.causal.checks import CheckConfig, RankedRow
from engine.config import ModelConfig
from engine.errors import EngineUnavailable
from engine.evaluate.scorecard import EvaluationConfig
from engine.types import Query


class RecordingLane:
    made: list[dict[str, Any]]
    device = "resolved"

    def __init__(self, **kwargs: Any) -> None:
        type(self).made.append(kwargs)
        self.closed = False

    def describe_model(self, model: ModelConfig) -> str:
        return f"looked at {model.base}"

    def status(self) -> dict[str, Any]:
        return {"device": "lane"}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> type[RecordingLane]:
    module = types.ModuleType("engine.lane")
    RecordingLane.made = []
    module.Lane = RecordingLane  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine.lane", module)
    return RecordingLane


def test_one_lane_starts_with_the_first_use(lane: type[RecordingLane]) -> None:
    engine = LocalEngine(device="cpu", threads=2, max_queue=5, max_queue_per_group=3, model_bytes=7)
    assert engine.status() == {"device": "cpu", "max_queue": 5, "queue_depth": 0, "models_loaded": 0, "batches": 0}
    assert "ekfac" in [method.name for method in engine.methods()]
    assert lane.made == []
    assert engine.describe_model(ModelConfig("x")) == "looked at x"
    engine.describe_model(ModelConfig("y"))
    given = {"device": "cpu", "threads": 2, "max_queue": 5, "max_queue_per_group": 3, "model_bytes": 7}
    assert lane.made == [given]
    assert engine.status() == {"device": "lane"}
    engine.close()
    assert engine.status()["device"] == "cpu"


def test_without_the_engine_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.lane", None)
    with pytest.raises(EngineUnavailable) as caught:
        LocalEngine().describe_model(ModelConfig("x"))
    assert "whence[engine]" in caught.value.remedy


def test_an_evaluation_needs_the_engine_extra_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("engine.evaluate.evaluation", raising=False)
    monkeypatch.setitem(sys.modules, "engine.evaluate.evaluation", None)
    with pytest.raises(EngineUnavailable) as caught:
        LocalEngine().estimate_evaluation(ModelConfig("x"), tmp_path, tmp_path, [], EvaluationConfig(), tmp_path)
    assert "whence[engine]" in caught.value.remedy


def test_an_evaluation_runs_in_the_callers_thread_on_the_lanes_device(
    lane: type[RecordingLane], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[Any, ...]] = []
    module = types.ModuleType("engine.evaluate.evaluation")
    module.evaluate = lambda *given, device: seen.append((threading.get_ident(), device, *given))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine.evaluate.evaluation", module)
    monkeypatch.setattr("engine.evaluate.evaluation", module, raising=False)
    monkeypatch.setattr("engine.dataset.arrow.open_dataset", lambda path: f"rows of {path.name}")
    model, config = ModelConfig("x"), EvaluationConfig()
    LocalEngine(device="auto").evaluate(model, tmp_path / "d", tmp_path / "i", [], config, tmp_path / "w", print)
    here = threading.get_ident()
    assert seen == [(here, "resolved", model, "rows of d", tmp_path / "i", [], config, tmp_path / "w", print)]


def test_a_check_needs_the_engine_extra_and_runs_in_the_callers_thread_too(
    lane: type[RecordingLane], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[tuple[Any, ...]] = []
    module = types.ModuleType("engine.causal.checking")
    module.CheckWork = lambda *given: (given[-1], *given[:-1])  # type: ignore[attr-defined]
    module.run_check = lambda work, *given: seen.append((threading.get_ident(), *work, *given))  # type: ignore[attr-defined]
    module.estimate_check = seen.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "engine.causal.checking", module)
    monkeypatch.setattr("engine.causal.checking", module, raising=False)
    monkeypatch.setattr("engine.dataset.arrow.open_dataset", lambda path: f"rows of {path.name}")
    engine, asked = LocalEngine(), (Query("a", completion="b"), [RankedRow("r", 1.0)], CheckConfig("flip"))
    places = ModelConfig("x"), tmp_path / "d", tmp_path / "i"
    engine.check(*places, *asked, tmp_path / "w", print)
    engine.estimate_check(*places, *asked, tmp_path / "w")
    given = (ModelConfig("x"), "rows of d", tmp_path / "i", *asked, tmp_path / "w")
    assert seen == [(threading.get_ident(), "resolved", *given, print), ("resolved", *given)]
    monkeypatch.delattr("engine.causal.checking")
    monkeypatch.setitem(sys.modules, "engine.causal.checking", None)
    with pytest.raises(EngineUnavailable) as caught:
        engine.estimate_check(*places, *asked, tmp_path / "w")
    assert "whence[engine]" in caught.value.remedy
