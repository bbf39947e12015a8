"""/v1/methods"""

from __future__ import annotations

from fastapi.testclient import TestClient

from engine.methods.specs import method_specs


def test_every_method_is_listed_with_its_options_needs_and_cost(client: TestClient) -> None:
    body = client.get("/v1/methods").json()
    assert [method["name"] for method in body["data"]] == [spec.name for spec in method_specs()]
    assert {"ekfac", "graddot", "repsim", "bm25"} <= {method["name"] for method in body["data"]}
    ekfac = next(method for method in body["data"] if method["name"] == "ekfac")
    assert (ekfac["signed"], ekfac["additive"]) == (True, True)
    assert "damping" in ekfac["options"]["properties"]
    assert all(method["cost"] and method["source"] for method in body["data"])


def test_the_list_needs_no_engine(client: TestClient) -> None:
    assert next(m for m in client.get("/v1/methods").json()["data"] if m["name"] == "bm25")["signed"] is False
