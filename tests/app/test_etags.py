"""ETags: what has not changed is not sent again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.etags import PreconditionFailed, Preconditions, etag_of
from app.indexes.schemas import IndexOut
from app.models.schemas import ModelOut
from tests.app.questions import post
from tests.app.resources import RECIPE, evaluated, ready_index


@pytest.fixture
def index(client: TestClient, model_dir: Path) -> dict[str, Any]:
    return ready_index(client, model_dir, recipe=RECIPE)


@pytest.fixture
def resources(client: TestClient, index: dict[str, Any]) -> dict[str, str]:
    """A path of each kind of resource."""
    answer = post(client, index).json()
    client.put("/v1/aliases/prod", json={"index": index["id"]})
    return {
        "model": f"/v1/models/{index['model']}",
        "dataset": f"/v1/datasets/{index['dataset']}",
        "example": f"/v1/datasets/{index['dataset']}/examples/born",
        "index": f"/v1/indexes/{index['id']}",
        "attribution": f"/v1/attributions/{answer['id']}",
        "alias": "/v1/aliases/prod",
        "evaluation": f"/v1/evaluations/{evaluated(client, index)['id']}",
    }


def test_what_the_caller_has_is_not_sent_again(client: TestClient, resources: dict[str, str]) -> None:
    for kind, path in resources.items():
        first = client.get(path)
        etag = first.headers["etag"]
        assert (etag[0], etag[-1], first.headers["cache-control"]) == ('"', '"', "private, no-cache"), kind
        assert client.get(path).headers["etag"] == etag, kind
        for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
            again = client.get(path, headers={"If-None-Match": header})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag), (kind, header)
            assert again.headers["cache-control"] == "private, no-cache"
            assert "content-type" not in again.headers
        for header in ('"other"', etag.strip('"'), ""):
            assert client.get(path, headers={"If-None-Match": header}).content == first.content, (kind, header)


def test_no_two_resources_share_an_etag(client: TestClient, resources: dict[str, str]) -> None:
    assert len({client.get(path).headers["etag"] for path in resources.values()}) == len(resources)


def test_an_answer_changes_with_its_trust(client: TestClient, index: dict[str, Any]) -> None:
    path = f"/v1/attributions/{post(client, index).json()['id']}"
    unmeasured = client.get(path).headers["etag"]
    evaluated(client, index)
    now = client.get(path, headers={"If-None-Match": unmeasured})
    assert (now.status_code, now.json()["trust"]["verdict"]) == (200, "trusted")


def test_lists_problems_and_what_is_made_have_none(client: TestClient, index: dict[str, Any]) -> None:
    for path in ("/v1/models", "/v1/indexes/idx_none", f"/v1/jobs/{index['job_id']}"):
        assert "etag" not in client.get(path, headers={"If-None-Match": "*"}).headers, path


def test_a_change_is_checked_against_what_get_says(client: TestClient, index: dict[str, Any]) -> None:
    """`etag_of`, which PUT and PATCH compare with, is that of the answer itself."""
    for path, shape in ((f"/v1/indexes/{index['id']}", IndexOut), (f"/v1/models/{index['model']}", ModelOut)):
        response = client.get(path)
        assert etag_of(shape.model_validate(response.json())) == response.headers["etag"]


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "current", "holds"),
    [
        (None, None, None, True),
        (None, None, '"a"', True),
        ('"a"', None, '"a"', True),
        ('"b", "a"', None, '"a"', True),
        ("*", None, '"a"', True),
        ('"b"', None, '"a"', False),
        ('W/"a"', None, '"a"', False),
        ('"a"', None, None, False),
        ("*", None, None, False),
        ("", None, '"a"', False),
        (None, "*", None, True),
        (None, "*", '"a"', False),
        (None, '"a"', '"a"', False),
        (None, '"b"', '"a"', True),
    ],
)
def test_preconditions(if_match: str | None, if_none_match: str | None, current: str | None, holds: bool) -> None:
    preconditions = Preconditions(if_match, if_none_match)
    if holds:
        preconditions.check(current)
    else:
        with pytest.raises(PreconditionFailed):
            preconditions.check(current)


def test_the_description_says_so(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in (
        "/v1/models/{model_id}",
        "/v1/datasets/{dataset_id}",
        "/v1/datasets/{dataset_id}/examples/{example_id}",
        "/v1/indexes/{index_id}",
        "/v1/attributions/{attribution_id}",
        "/v1/evaluations/{evaluation_id}",
        "/v1/aliases/{name}",
    ):
        get = paths[path]["get"]
        assert set(get["responses"]["304"]["headers"]) == set(get["responses"]["200"]["headers"]), path
        assert "content" not in get["responses"]["304"]
        assert "if-none-match" in [parameter["name"].lower() for parameter in get["parameters"]]
