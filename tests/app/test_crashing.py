"""A short form of `python -m tests.app.crashing`, and that it notices what is lost."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.app.crashing.ledger import Ledger
from tests.app.crashing.rounds import look, run

KILLS = 2


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    ledger = run(tmp_path, KILLS, seed=7, say=lambda _: None)
    # not how many questions: on a busy machine no kill may come after the engine's libraries are loaded
    assert ledger.counts["uploads"] >= 10 and ledger.counts["builds"] >= 1


def server(request: httpx.Request) -> httpx.Response:
    shown = {"/v1/datasets/ds_here": {"state": "ready", "rows": 3}, "/v1/aliases/prod": {"index": "idx_b"}}
    return httpx.Response(200, json=shown[request.url.path]) if request.url.path in shown else httpx.Response(404)


@pytest.mark.parametrize(
    ("path", "shown", "told"),
    [
        ("/v1/datasets/ds_gone", {}, "is lost"),
        ("/v1/datasets/ds_here", {"rows": 4}, "has changed"),
        ("/v1/datasets/ds_here", {"rows": 3}, None),
    ],
)
def test_what_is_lost_or_changed_is_noticed(path: str, shown: dict[str, int], told: str | None) -> None:
    ledger = Ledger()
    ledger.add("uploads", path, dict(shown), end="ready")
    with httpx.Client(base_url="http://whence", transport=httpx.MockTransport(server)) as client:
        if told is None:
            look(client, ledger)
            ledger.went(path)
            told = "is back"
        with pytest.raises(AssertionError, match=told):
            look(client, ledger)


def test_an_alias_points_where_it_was_last_told_to_or_to_what_was_being_told() -> None:
    with httpx.Client(base_url="http://whence", transport=httpx.MockTransport(server)) as client:
        ledger = Ledger()
        ledger.point("prod", "idx_a", acknowledged=True)
        with pytest.raises(AssertionError, match="prod"):
            look(client, ledger)
        ledger.point("prod", "idx_b", acknowledged=False)
        look(client, ledger)
        assert ledger.aliases == {"prod": ["idx_b"]}
