"""The API describes itself: stable operation ids, declared problems, examples."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.main import create_app
from app.settings import Settings

OPERATIONS = {
    "create_model": ("post", "/v1/models"),
    "list_models": ("get", "/v1/models"),
    "get_model": ("get", "/v1/models/{model_id}"),
    "update_model": ("patch", "/v1/models/{model_id}"),
    "delete_model": ("delete", "/v1/models/{model_id}"),
    "create_dataset": ("post", "/v1/datasets"),
    "list_datasets": ("get", "/v1/datasets"),
    "get_dataset": ("get", "/v1/datasets/{dataset_id}"),
    "update_dataset": ("patch", "/v1/datasets/{dataset_id}"),
    "delete_dataset": ("delete", "/v1/datasets/{dataset_id}"),
    "list_examples": ("get", "/v1/datasets/{dataset_id}/examples"),
    "get_example": ("get", "/v1/datasets/{dataset_id}/examples/{example_id}"),
    "create_index": ("post", "/v1/indexes"),
    "estimate_index": ("post", "/v1/indexes/estimate"),
    "list_indexes": ("get", "/v1/indexes"),
    "get_index": ("get", "/v1/indexes/{index_id}"),
    "update_index": ("patch", "/v1/indexes/{index_id}"),
    "delete_index": ("delete", "/v1/indexes/{index_id}"),
    "list_self_influence": ("get", "/v1/indexes/{index_id}/self-influence"),
    "put_alias": ("put", "/v1/aliases/{name}"),
    "list_aliases": ("get", "/v1/aliases"),
    "get_alias": ("get", "/v1/aliases/{name}"),
    "delete_alias": ("delete", "/v1/aliases/{name}"),
    "export_index": ("get", "/v1/indexes/{index_id}/export"),
    "import_index": ("post", "/v1/indexes/import"),
    "create_evaluation": ("post", "/v1/evaluations"),
    "estimate_evaluation": ("post", "/v1/evaluations/estimate"),
    "get_evaluation_figures": ("get", "/v1/evaluations/{evaluation_id}/figures"),
    "list_evaluations": ("get", "/v1/evaluations"),
    "get_evaluation": ("get", "/v1/evaluations/{evaluation_id}"),
    "update_evaluation": ("patch", "/v1/evaluations/{evaluation_id}"),
    "delete_evaluation": ("delete", "/v1/evaluations/{evaluation_id}"),
    "create_attribution": ("post", "/v1/attributions"),
    "attribute_query_set": ("post", "/v1/attributions/query-set"),
    "attribute_batch": ("post", "/v1/attributions/batch"),
    "list_attributions": ("get", "/v1/attributions"),
    "get_attribution": ("get", "/v1/attributions/{attribution_id}"),
    "delete_attribution": ("delete", "/v1/attributions/{attribution_id}"),
    "verify_attribution": ("post", "/v1/attributions/{attribution_id}/verify"),
    "estimate_verification": ("post", "/v1/attributions/{attribution_id}/verify/estimate"),
    "list_attribution_checks": ("get", "/v1/attributions/{attribution_id}/checks"),
    "list_checks": ("get", "/v1/checks"),
    "get_check": ("get", "/v1/checks/{check_id}"),
    "update_check": ("patch", "/v1/checks/{check_id}"),
    "delete_check": ("delete", "/v1/checks/{check_id}"),
    "create_batch": ("post", "/v1/attributions/batches"),
    "list_batches": ("get", "/v1/attributions/batches"),
    "get_batch": ("get", "/v1/attributions/batches/{batch_id}"),
    "get_batch_results": ("get", "/v1/attributions/batches/{batch_id}/results"),
    "delete_batch": ("delete", "/v1/attributions/batches/{batch_id}"),
    "list_methods": ("get", "/v1/methods"),
    "create_key": ("post", "/v1/keys"),
    "list_keys": ("get", "/v1/keys"),
    "get_key": ("get", "/v1/keys/{key_id}"),
    "revoke_key": ("delete", "/v1/keys/{key_id}"),
    "list_audit_log": ("get", "/v1/audit-log"),
}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_operation_ids_are_stable_and_unique(document: dict[str, Any]) -> None:
    found = {operation["operationId"]: (method, path) for method, path, operation in operations(document)}
    assert found.items() >= OPERATIONS.items()
    assert len(found) == len(list(operations(document)))
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in found)


def test_every_operation_of_the_resources_is_summed_up(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if path.startswith("/v1/"):
            assert operation.get("summary"), (method, path)
            assert operation.get("tags"), (method, path)


def test_problems_are_declared_where_they_can_occur(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        if operation["operationId"] not in OPERATIONS or path == "/v1/methods":
            continue
        responses = operation["responses"]
        assert {"422", "503"} <= set(responses), (method, path)
        if "{" in path:
            assert "404" in responses, (method, path)
        if method == "delete" and operation["operationId"] != "revoke_key":  # a key is never in use by anything
            assert {"409", "412"} & set(responses), (method, path)
    assert "429" in document["paths"]["/v1/attributions"]["post"]["responses"]


def test_every_operation_below_v1_needs_a_key_and_says_which_scope(document: dict[str, Any]) -> None:
    assert document["components"]["securitySchemes"]["api_key"]["scheme"] == "bearer"
    for method, path, operation in operations(document):
        if path.startswith("/v1/"):
            assert list(operation["security"][0]) == ["api_key"], (method, path)
            assert {"401", "403", "429"} <= set(operation["responses"]), (method, path)
    assert document["paths"]["/v1/models"]["post"]["security"] == [{"api_key": ["models:write"]}]
    assert "security" not in document["paths"]["/livez"]["get"]


def test_problems_are_declared_as_rfc_9457(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        for status, response in operation["responses"].items():
            if status[0] in "45" and path.startswith("/v1/"):
                schema = response["content"]["application/problem+json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/Problem"}, (method, path, status)
    assert {"type", "title", "status", "detail"} <= set(document["components"]["schemas"]["Problem"]["required"])


def test_no_answer_is_declared_with_the_frameworks_own_error_shape(document: dict[str, Any]) -> None:
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_request_bodies_refuse_unknown_fields_and_give_examples(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for name in ("ModelCreate", "IndexCreate", "AliasPut", "EvaluationCreate", "AttributionCreate", "QuerySetCreate"):
        assert schemas[name]["additionalProperties"] is False
        assert schemas[name]["examples"]
    content = document["paths"]["/v1/datasets"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    assert all(kind["schema"]["additionalProperties"] is False for kind in content.values())


def test_long_work_declares_its_202(document: dict[str, Any]) -> None:
    paths = ["/v1/datasets", "/v1/indexes", "/v1/evaluations", "/v1/attributions", "/v1/attributions/batches"]
    for path in [*paths, "/v1/attributions/{attribution_id}/verify"]:
        assert "202" in document["paths"][path]["post"]["responses"]


def test_the_description_does_not_depend_on_the_home(document: dict[str, Any], tmp_path: Path) -> None:
    assert create_app(Settings(home=tmp_path)).openapi() == document
