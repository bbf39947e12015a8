"""Causal checks with the real engine on a tiny fine-tune: cost, job, effects, and answers that stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.attributions.schemas import AttributionOut
from app.engine_client import LocalEngine
from app.main import create_app
from engine.causal.train import train_lora
from engine.config import Lora, Training
from tests import factories
from tests.app.conftest import make_settings
from tests.app.resources import add_check, add_dataset, add_index, add_model, wait_for_check, wait_for_index

PATIENCE_SECONDS = 120.0  # its training processes load torch first
ROWS = factories.sentences(16, seed=3, longest=3)
TRAINING = Training(epochs=2, batch_size=8, learning_rate=0.02, lora=Lora(rank=2, alpha=4), epsilon=1e-3)
NO_CACHE = {"Cache-Control": "no-cache"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2 * PATIENCE_SECONDS)]


class Served:
    def __init__(self, client: TestClient, directory: Path) -> None:
        factories.save_base(directory / "base", factories.llama(hidden=8, layers=1))
        rows = list(factories.dataset(directory / "data", ROWS))
        train_lora(directory / "base", rows, directory / "run", TRAINING)
        self.client = client
        self.model = add_model(client, directory / "base", adapter=str(directory / "run" / "epoch-2"))
        self.dataset = add_dataset(client, ROWS)
        built = add_index(client, self.model["id"], self.dataset["id"], method="graddot")
        self.index = wait_for_index(client, built["id"])

    def ask(self) -> dict[str, Any]:
        """Computed anew each time."""
        row = ROWS[3]
        body = {"index": self.index["id"], "prompt": row["prompt"], "completion": row["completion"], "top_k": 5}
        answer = self.client.post("/v1/attributions", json=body, headers=NO_CACHE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def checked(self, answer: dict[str, Any], kind: str, **fields: Any) -> dict[str, Any]:
        check = add_check(self.client, answer["id"], kind, **fields)
        return wait_for_check(self.client, check["id"], seconds=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("checked")
    with TestClient(create_app(make_settings(directory), LocalEngine(device="cpu"))) as client:
        yield Served(client, directory)


def scores(answer: dict[str, Any]) -> list[tuple[str, float]]:
    return [(hit["example_id"], hit["score"]) for hit in answer["proponents"]]


def test_leaving_rows_out_while_questions_are_answered(served: Served) -> None:
    """Queries asked while the training goes on wait for none of it, and are answered as before and after."""
    before = served.ask()
    path = f"/v1/attributions/{before['id']}/verify/estimate"
    cost = served.client.post(path, json={"kind": "leave_out", "rows": 2, "draws": 2}).json()
    assert cost["retrainings"] == 3 * 5 and cost["memory_bytes"] > 0
    check = add_check(served.client, before["id"], rows=2, draws=2)
    wait_for_check(served.client, check["id"], "running", seconds=PATIENCE_SECONDS)
    during, still = [], "running"
    while still == "running":
        during.append(served.ask())
        still = served.client.get(f"/v1/checks/{check['id']}").json()["state"]
    ready = wait_for_check(served.client, check["id"], seconds=PATIENCE_SECONDS)
    assert len(during) >= 3, "answers came while it was running"
    assert {tuple(scores(answer)) for answer in (*during, served.ask())} == {tuple(scores(before))}
    sets = {one["name"]: one for one in ready["result"]["sets"]}
    assert list(sets) == ["none", "top", "random", "bm25"]
    assert sets["top"]["ids"] == [hit["example_id"] for hit in before["proponents"][:2]]
    assert sets["top"]["low"] <= sets["top"]["change"] <= sets["top"]["high"]
    assert sets["top"]["after"] == pytest.approx(sets["top"]["before"] + sets["top"]["change"])
    shown = served.client.get(f"/v1/attributions/{before['id']}").json()
    AttributionOut.model_validate(shown)
    assert shown["trust"]["measured"]["check"] == ready["id"]
    assert shown["trust"]["measured"]["change"] == sets["top"]["change"]
    more = {"kind": "leave_out", "rows": 2, "draws": 3}
    assert served.client.post(path, json=more).json()["retrainings"] == 3, "the others are taken over"


def test_single_rows_are_measured_by_a_step_and_by_replay(served: Served) -> None:
    answer = served.ask()
    first = answer["proponents"][0]["example_id"]
    for kind in ("tail_patch", "replay"):
        ready = served.checked(answer, kind, rows=3, draws=1)
        assert [effect["id"] for effect in ready["result"]["effects"]][:1] == [first]
        shown = served.client.get(f"/v1/attributions/{answer['id']}").json()
        assert [hit["effect"] and hit["effect"]["kind"] for hit in shown["proponents"]] == [kind] * 3 + [None] * 2
    replayed = ready["result"]["effects"][0]["measured"]
    assert shown["proponents"][0]["effect"]["measured"] == replayed


def test_unlearning_makes_a_version_that_can_be_indexed_and_asked(served: Served) -> None:
    answer = served.ask()
    ready = served.checked(answer, "unlearn", rows=2)
    made = served.client.get(f"/v1/models/{ready['new_model']}").json()
    assert (made["name"], made["version"], made["checkpoints"]) == ("bot", 2, [])
    assert made["recipe"]["training"]["epochs"] == 2
    assert len(made["recipe"]["details"]["removed"]) == 2, "what repeats its training leaves them out too"
    assert ready["result"]["held_out"]["after"] > 0
    built = add_index(served.client, made["id"], served.dataset["id"], method="graddot")
    index = wait_for_index(served.client, built["id"])
    row = ROWS[3]
    asked = {"index": index["id"], "prompt": row["prompt"], "completion": row["completion"]}
    again = served.client.post("/v1/attributions", json=asked).json()
    (unlearned,) = ready["result"]["sets"]
    assert again["measurement"]["value"] == pytest.approx(unlearned["after"], abs=1e-3)


def test_an_answer_that_is_not_the_models_own_cannot_flip(served: Served) -> None:
    """What only the engine finds out fails the job, with its cause and remedy."""
    check = add_check(served.client, served.ask()["id"], "flip", rows=2, seeds=1)
    failed = wait_for_check(served.client, check["id"], "failed", seconds=PATIENCE_SECONDS)
    assert failed["error"]["status"] == 422 and failed["error"]["remedy"]
