"""The pages about trust: scorecards in words and charts, and asking for one, its cost first."""

from __future__ import annotations

import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.dashboard.trust.charts import evenly, number
from app.dashboard.trust.forms import EMPTY
from app.dashboard.trust.views_figures import curve_chart, pairs_view, reliability_view
from app.dashboard.trust.views_scorecard import lds_chart, verdict_views
from app.evaluations.schemas import CurveOut, PairsOut
from engine.evaluate.scorecard import EvaluationConfig, LdsEvidence, Scorecard, Verdict
from tests.app.conftest import wait_for
from tests.app.fake_scorecards import RELIABILITY, scorecard_of
from tests.app.fakes import FakeEngine
from tests.app.resources import RECIPE, add_evaluation, evaluated, ready_index, wait_for_evaluation, wait_for_job

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, RECIPE, name=f"bot {HOSTILE}")


def form(made: dict[str, Any], **changes: str) -> dict[str, str]:
    """As the page sends it: of four rows no more than one can be left out."""
    return {**EMPTY, "index": made["id"], "rows": "3", "leave_out_rows": "1", **changes}


def tables(page: str) -> dict[str, list[list[str]]]:
    """Caption of each chart → its rows."""
    found = {}
    for figure in re.findall(r'<figure class="chart".*?</figure>', page, re.DOTALL):
        (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", figure)
        body = figure.partition("<tbody>")[2]
        rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        found[html.unescape(caption)] = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
    return found


# --- the list ---


def test_before_anything_is_measured_the_page_says_why_to(client: TestClient) -> None:
    page = client.get("/ui/evaluations").text
    assert "nothing to measure yet" in page and "/ui/evaluations/new" not in page


def test_the_list_shows_verdicts_and_progress(client: TestClient, engine: FakeEngine, index: dict[str, Any]) -> None:
    assert "Nothing has been measured yet" in client.get("/ui/evaluations").text
    ready = evaluated(client, index, name=HOSTILE)
    engine.gate.clear()
    running = add_evaluation(client, index, half_subsets=9)
    wait_for(lambda: client.get(f"/v1/jobs/{running['job_id']}").json()["progress"], "progress")
    page = client.get("/ui/evaluations").text
    assert HOSTILE not in page and html.escape(HOSTILE) in page
    assert "verdict-trusted" in page and "0 of 9 retrainings" in page and 'hx-trigger="every 3s"' in page
    only = client.get("/ui/evaluations?state=ready").text
    assert ready["id"] in only and running["id"] not in only and 'hx-trigger="every' not in only
    live = client.get(f"/ui/evaluations/{running['id']}").text
    assert f'data-live-job="{running["job_id"]}"' in live and f"/ui/jobs/{running['job_id']}/cancel" in live
    client.post(f"/ui/jobs/{running['job_id']}/cancel")
    wait_for_job(client, running["job_id"], "cancelled")
    stopped = client.get(f"/ui/evaluations/{running['id']}").text
    assert "cancelled" in stopped and f"/ui/jobs/{running['job_id']}/resume" in stopped


# --- a scorecard ---


def test_a_scorecard_shows_what_the_api_holds(client: TestClient, index: dict[str, Any]) -> None:
    made = evaluated(client, index, candidates=[{"method": "kfac"}])
    page, card = client.get(f"/ui/evaluations/{made['id']}").text, made["scorecard"]
    charts = tables(page)
    shown = charts["How well each ranking predicted retraining, on other rows"]
    assert [row[0] for row in shown][:3] == ["ekfac", "kfac", "BM25 (shared words)"] and len(shown) == len(
        card["methods"]
    )
    assert shown[0][1:4] == ["0.70", "0.60", "0.80"] and shown[0][4:] == ["this index", "trusted"]
    assert 'data-mark-x="0.9"' in page and "noise ceiling" in page
    assert charts["How much better than each control, on other rows"][0] == [
        "BM25 (shared words)",
        "+0.50",
        "+0.40",
        "+0.60",
    ]
    assert charts["Predicted against measured, one question"] == [
        ["-1.20", "-4.00"],
        ["-0.40", "-2.00"],
        ["0.40", "-3.00"],
        ["1.20", "-1.00"],
    ]
    falls = charts["How far each answer fell when rows were really left out"]
    assert [row[1] for row in falls] == sorted((row[1] for row in falls), reverse=True) and len(falls) == made[
        "questions"
    ]
    assert charts["Mislabelled rows: share found among the first rows of the ranking"][0] == ["1", "0.50", "0.00"]
    assert charts["Reliability of single answers"] == [["0.40", "0.40"], ["0.60", "0.60"]]
    assert "mislabelled AUROC" in page and "<code>auto</code> takes kfac" in page and "Metasmoothness 0.90" in page
    assert "Retraining said so of ekfac." in page and "120 retrainings" in page


def test_questions_are_shown_as_text(client: TestClient, engine: FakeEngine, index: dict[str, Any]) -> None:
    asked = [{"prompt": f"{HOSTILE} {n}", "completion": f" {HOSTILE}"} for n in range(2)]
    made = evaluated(client, index, queries=asked, name=HOSTILE)
    page = client.get(f"/ui/evaluations/{made['id']}?composition=1").text
    assert HOSTILE not in page and page.count(html.escape(HOSTILE)) > 4


def test_without_figures_the_scorecard_still_reads(client: TestClient, index: dict[str, Any], tmp_path: Path) -> None:
    made = evaluated(client, index)
    (tmp_path / "home" / "evaluations" / made["id"] / "figures.json").unlink()
    page = client.get(f"/ui/evaluations/{made['id']}").text
    assert "kept no figures" in page and "Evaluate the index again" in page
    assert "How well each ranking predicted retraining, on other rows" in page
    assert "Predicted against measured, one question" not in tables(page)


def test_no_such_evaluation_is_a_page(client: TestClient) -> None:
    missing = client.get("/ui/evaluations/evl_x")
    assert missing.status_code == 404 and "There is no evaluation" in missing.text


# --- asking for one ---


def test_the_cost_is_shown_before_it_is_spent(client: TestClient, engine: FakeEngine, index: dict[str, Any]) -> None:
    page = client.get(f"/ui/evaluations/new?index={index['id']}").text
    assert f'value="{index["id"]}" selected' in page and "Start</button>" not in page
    told = client.post("/ui/evaluations/estimate", data=form(index, half_subsets="5", name="first"))
    assert told.status_code == 200 and "5 retrainings" in told.text
    assert client.get("/v1/evaluations").json()["data"] == []
    start = told.text.partition('<form method="post" action="/ui/evaluations">')[2].partition("</form>")[0]
    hidden = {name: html.unescape(value) for name, value in re.findall(r'name="(\w+)" value="([^"]*)"', start)}
    answer = client.post("/ui/evaluations", data=hidden, follow_redirects=False)
    (made,) = client.get("/v1/evaluations").json()["data"]
    assert answer.headers["location"] == f"/ui/evaluations/{made['id']}"
    assert (made["name"], made["config"]["half_subsets"], made["questions"]) == ("first", 5, 3)
    assert wait_for_evaluation(client, made["id"])["state"] == "ready"


@pytest.mark.parametrize(
    ("changes", "said", "field"),
    [
        ({"half_subsets": "2"}, "Random halves: Input should be greater than or equal to 3", "half_subsets"),
        ({"half_subsets": "many"}, "'many' is no number", "half_subsets"),
        ({"candidates": "nonsense"}, "nonsense", "candidates"),
        ({"candidates": "ekfac:{"}, "is no JSON", "candidates"),
        ({"mislabelled": "wrong"}, "key=value", "mislabelled"),
        ({"group_by": "fact"}, "Rows of one fact", "group_by"),
        ({"index": "idx_none"}, "There is no index 'idx_none'", ""),
        ({"leave_out_rows": "4000"}, "rows", "leave_out_rows"),
    ],
)
def test_a_form_that_cannot_be_measured_says_where(
    client: TestClient, index: dict[str, Any], changes: dict[str, str], said: str, field: str
) -> None:
    for path in ("/ui/evaluations/estimate", "/ui/evaluations"):
        refused = client.post(path, data=form(index, name=HOSTILE, **changes))
        assert 400 <= refused.status_code < 500 and said in html.unescape(refused.text), refused.text
        assert not field or re.search(rf'name="{field}"[^>]*aria-invalid="true"', refused.text), field
        assert HOSTILE not in refused.text and f'value="{html.escape(HOSTILE)}"' in refused.text  # what was typed stays
    assert client.get("/v1/evaluations").json()["data"] == []


def test_what_is_underpowered_goes_on_with_the_same_questions(
    client: TestClient, engine: FakeEngine, index: dict[str, Any]
) -> None:
    fixed = {"seed": 7, "candidates": [{"method": "ekfac", "options": {"damping": 0.2}}], "mislabelled": {"a": "b"}}
    small = evaluated(client, index, rows=3, half_subsets=4, measurement="log_odds", **fixed)
    page = client.get(f"/ui/evaluations/new?like={small['id']}&half_subsets=9").text
    assert "the same questions" in page and 'value="9"' in page
    typed = dict(re.findall(r'<input[^>]*name="(\w+)"[^>]*value="([^"]*)"', page.partition('class="evaluate"')[2]))
    areas = re.findall(r'<textarea[^>]*name="(\w+)"[^>]*>\n(.*?)</textarea>', page, re.DOTALL)
    typed |= {name: html.unescape(value) for name, value in areas}
    again = form(index) | typed | {"measurement": "log_odds", "index": index["id"]}
    told = client.post("/ui/evaluations/estimate", data=again)
    assert "5 retrainings" in told.text  # four were made
    client.post("/ui/evaluations", data=again)
    larger, _ = client.get("/v1/evaluations").json()["data"]
    assert (larger["questions"], larger["measurement"]) == (3, "log_odds")
    assert larger["config"] == small["config"] | {"half_subsets": 9}
    asked = [call[1][3] for call in engine.calls if call[0] == "evaluate"]
    wait_for_evaluation(client, larger["id"])
    asked = [call[1][3] for call in engine.calls if call[0] == "evaluate"]
    assert asked[0] == asked[1]


# --- from figures to words ---


def card(**changes: Any) -> Scorecard:
    return replace(scorecard_of("r", [], EvaluationConfig(half_seeds=2), 10, "trusted"), **changes)


def test_what_was_not_measured_has_no_chart_and_says_how_to_measure_it() -> None:
    own, *others = card().methods
    nothing = LdsEvidence(None, None, None, None, None, 0, 1)
    unmeasured = Verdict("unmeasured", "Nothing was retrained.")
    bare = replace(own, lds=own.lds | {"this_run": nothing}, verdicts=own.verdicts | {"this_run": unmeasured})
    few = Verdict("weak", "underpowered", None, 31)
    bare = replace(bare, verdicts=bare.verdicts | {"composition": few})
    shown = card(methods=(bare, *(replace(m, lds={**m.lds, "this_run": nothing}) for m in others)))
    assert lds_chart(shown, "this_run") is None and lds_chart(shown, "composition") is not None
    composition, this_run = verdict_views(shown)
    assert (composition.more, composition.finish) == (31, {"half_subsets": 60 + 16})  # two seeds each
    assert this_run.finish == {"drop_subsets": 120} and this_run.title == "Not measured"


def test_the_question_in_the_middle_is_shown_first() -> None:
    pairs = [
        PairsOut(query=q, asked=f"q{q}", lds=lds, predicted=[0, 1], measured=[0, 1])
        for q, lds in enumerate((0.9, None, 0.1, 0.5))
    ]
    view, chosen, gone = pairs_view(pairs, None), pairs_view(pairs, 2), pairs_view(pairs, 99)
    assert view and chosen and gone and (view.chosen, chosen.chosen, gone.chosen) == (3, 2, 3)
    assert [query for query, _ in view.choices] == [0, 3, 2, 1] and pairs_view([], None) is None


def test_reliability_without_skill_is_said_in_words() -> None:
    none = reliability_view(RELIABILITY | {"skill": False})
    some = reliability_view(RELIABILITY)
    assert none.chart and none.chart.kind == "lines" and "every answer is given the mean" in " ".join(none.words)
    assert some.chart and some.chart.diagonal and "mean LDS of 0.60, the other half 0.40" in " ".join(some.words)
    assert reliability_view(None).chart is None


def test_a_picture_has_at_most_four_lines_and_the_own_first() -> None:
    names = ["bm25", "length", "random", "ekfac", "repsim", "shuffled ids"]
    found = curve_chart(CurveOut(name="x", rows=[1], relevant=1, found={name: [0.5] for name in names}), "ekfac")
    assert found and len(found.columns) == 5 and found.columns[1].name == "ekfac"


def test_numbers_and_long_tables() -> None:
    assert [number(value).text for value in (None, 0.0, -0.001, 0.0123, -1.234, 0.996)] == [
        "–",
        "0.00",
        "-0.001",
        "0.012",
        "-1.23",
        "1.00",
    ]
    assert number(0.5, signed=True).text == "+0.50"
    assert evenly(3, 200) == [0, 1, 2] and len(evenly(5000, 200)) == 200
