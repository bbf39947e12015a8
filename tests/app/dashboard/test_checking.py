"""The part of an answer's page that checks it, and a check's own page; without scripts and as htmx takes it."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.app.dashboard.asked import HTMX
from tests.app.fakes import FakeEngine
from tests.app.resources import (
    RECIPE,
    add_check,
    answer_of,
    checked,
    evaluated,
    ready_index,
    wait_for_check,
)

FORM = {"kind": "leave_out", "rows": "2", "seeds": "3"}


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


@pytest.fixture
def answer(client: TestClient, index: dict[str, Any]) -> str:
    return answer_of(client, index, top_k=3)["id"]


def page(client: TestClient, path: str) -> str:
    shown = client.get(path)
    assert shown.status_code == 200, shown.text
    return html.unescape(shown.text)


def test_a_check_is_asked_for_without_scripts(client: TestClient, answer: str) -> None:
    path = f"/ui/attributions/{answer}"
    assert '<option value="leave_out" selected>' in page(client, path)
    priced = client.post(f"{path}/verify/estimate", data=FORM)
    assert priced.status_code == 200 and "3 retrainings, about 6.0 s" in priced.text
    assert '<input type="hidden" name="rows" value="2">' in priced.text
    assert "Where was Mira born?" in priced.text, "the whole page"
    started = client.post(f"{path}/verify", data=FORM, follow_redirects=False)
    assert (started.status_code, started.headers["location"]) == (303, f"{path}#checks")
    (check,) = client.get("/v1/checks").json()["data"]
    wait_for_check(client, check["id"])
    shown = page(client, path)
    assert "The output's log-probability fell from -2.10 to -5.30 nats when the 2 top rows were left out" in shown
    assert "The output's probability fell from 12 % to 0.5 %." in shown
    assert shown.count('data-chart="bars"') >= 2 and "random rows" in shown
    assert "left out, measured: -5 nats (95%: -5.5 to -4.5)" in shown  # beside the row's score
    assert "Measured on this very answer." in shown and "not checked yet" not in shown
    assert "These figures are made up." in shown


def test_htmx_takes_the_part_alone(client: TestClient, answer: str, engine: FakeEngine) -> None:
    path = f"/ui/attributions/{answer}/verify"
    priced = client.post(f"{path}/estimate", data=FORM, headers=HTMX)
    assert priced.text.startswith('<section id="checks"') and "Start" in priced.text
    engine.gate.clear()
    started = client.post(path, data=FORM, headers=HTMX)
    assert started.text.startswith('<section id="checks"')
    (check,) = client.get("/v1/checks").json()["data"]
    assert f'data-live-job="{check["job_id"]}"' in started.text and 'data-live-refresh="#answer"' in started.text
    assert f'action="/ui/jobs/{check["job_id"]}/cancel"' in started.text
    engine.gate.set()
    wait_for_check(client, check["id"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": "9"}, "rows is 9"),
        ({"rows": "two"}, "Top rows: 'two' is no number"),
        ({"kind": "leave_one_out"}, "What is tried"),
        ({"kind": "tail_patch", "learning_rate": "-1"}, "Learning rate"),
        ({"kind": "unlearn", "ids": "born\nnobody"}, "No row has the id 'nobody'"),
    ],
)
def test_what_is_wrong_is_said_on_the_form(client: TestClient, answer: str, change: dict[str, str], said: str) -> None:
    for path in ("verify/estimate", "verify"):
        for headers in ({}, HTMX):
            refused = client.post(f"/ui/attributions/{answer}/{path}", data=FORM | change, headers=headers)
            assert refused.status_code == 422 and said in html.unescape(refused.text)
            assert 'id="checks"' in refused.text
    assert client.get("/v1/checks").json()["data"] == []


def test_fields_of_another_kind_are_not_sent_with_it(client: TestClient, answer: str, engine: FakeEngine) -> None:
    everything = FORM | {
        "draws": "4",
        "learning_rate": "0.5",
        "ids": "born\r\nsea\r\n",
        "how": "influence",
        "seed": "7",
    }
    for kind in ("leave_out", "tail_patch", "unlearn"):
        sent = client.post(f"/ui/attributions/{answer}/verify", data=everything | {"kind": kind})
        assert sent.status_code == 200
    for check in client.get("/v1/checks").json()["data"]:
        wait_for_check(client, check["id"])
    found = {arguments[5].kind: arguments[5] for name, arguments in engine.calls if name == "check"}
    assert (found["leave_out"].learning_rate, found["leave_out"].ids, found["leave_out"].draws) == (None, (), 4)
    assert (found["tail_patch"].learning_rate, found["tail_patch"].seed) == (0.5, 7)
    assert (found["unlearn"].ids, found["unlearn"].how) == (("born", "sea"), "influence")


def test_a_model_without_a_recipe_says_what_to_do(client: TestClient, model_dir: Path) -> None:
    answer = answer_of(client, ready_index(client, model_dir))["id"]
    refused = client.post(f"/ui/attributions/{answer}/verify/estimate", data=FORM | {"rows": "1"}, headers=HTMX)
    assert refused.status_code == 422 and "--recipe" in refused.text
    assert client.post("/ui/attributions/att_none/verify/estimate", data=FORM).status_code == 404


def test_the_scorecard_predicts_where_the_ranking_does_not(
    client: TestClient, index: dict[str, Any], answer: str
) -> None:
    evaluated(client, index)
    checked(client, answer, "replay", rows=1)
    checked(client, answer, "tail_patch", rows=1)
    shown = page(client, f"/ui/attributions/{answer}")
    assert "one step more: -5 nats" in shown  # the newest that measured the row
    stepped, replayed = (part.split("</table>")[0] for part in shown.split("<figcaption>Effect of each row: ")[1:])
    assert "-2.50" in replayed and "–" not in replayed
    assert "-2.50" not in stepped and "–" in stepped


def test_a_failed_or_cancelled_check_says_why_and_can_be_resumed(
    client: TestClient, answer: str, engine: FakeEngine
) -> None:
    engine.gate.clear()
    check = add_check(client, answer)
    wait_for_check(client, check["id"], "running")
    client.post(f"/ui/jobs/{check['job_id']}/cancel")
    wait_for_check(client, check["id"], "failed")
    shown = page(client, f"/ui/attributions/{answer}")
    assert "Cancelled" in shown and f'action="/ui/jobs/{check["job_id"]}/resume"' in shown
    engine.gate.set()


def test_an_unlearned_model_is_linked_and_earlier_checks_are_named(client: TestClient, answer: str) -> None:
    first, second = (checked(client, answer, "unlearn") for _ in range(2))
    shown = page(client, f"/ui/attributions/{answer}")
    assert f'href="/ui/models/{second["new_model"]}"' in shown
    earlier = shown.split("Earlier checks")[1].split("</details>")[0]
    assert f'href="/ui/checks/{first["id"]}"' in earlier and second["id"] not in earlier


def test_a_check_has_a_page_of_its_own_that_outlives_its_answer(client: TestClient, answer: str) -> None:
    check = checked(client, answer, name="<b>mine</b>")
    path = f"/ui/checks/{check['id']}"
    assert "&lt;b&gt;mine&lt;/b&gt;" in client.get(path).text
    assert f'href="/ui/checks/{check["id"]}"' in client.get(f"/ui/jobs/{check['job_id']}").text
    client.delete(f"/v1/attributions/{answer}")
    assert "by what was left out" in page(client, path)
    deleted = client.post(f"{path}/delete", follow_redirects=False)
    assert deleted.status_code == 303 and client.get(path).status_code == 404


def test_the_csv_has_what_was_measured(client: TestClient, answer: str) -> None:
    checked(client, answer, "replay", rows=1)
    lines = client.get(f"/ui/attributions/{answer}/rows.csv").text.splitlines()
    assert "measured_effect,measured_low,measured_high,measured_by" in lines[0]
    assert lines[1].count("replay") == 1 and "-5.0" in lines[1]
