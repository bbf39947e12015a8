"""LocalEngine: the engine starts with its first use, and says so when it cannot."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from app.engine_client import LocalEngine
from engine.config import ModelConfig
from engine.errors import EngineUnavailable


class RecordingLane:
    made: list[dict[str, Any]]

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
    engine = LocalEngine(device="cpu", threads=2, max_queue=5)
    assert engine.status() == {"device": "cpu", "max_queue": 5, "queue_depth": 0, "models_loaded": 0, "batches": 0}
    assert "ekfac" in [method.name for method in engine.methods()]
    assert lane.made == []
    assert engine.describe_model(ModelConfig("x")) == "looked at x"
    engine.describe_model(ModelConfig("y"))
    assert lane.made == [{"device": "cpu", "threads": 2, "max_queue": 5}]
    assert engine.status() == {"device": "lane"}
    engine.close()
    assert engine.status()["device"] == "cpu"


def test_without_the_engine_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.lane", None)
    with pytest.raises(EngineUnavailable) as caught:
        LocalEngine().describe_model(ModelConfig("x"))
    assert "whence[engine]" in caught.value.remedy
