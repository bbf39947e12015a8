"""The bodies of every request that takes JSON: valid, or refused with a place to look at."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi.exceptions import RequestValidationError
from hypothesis import strategies as st
from pydantic import BaseModel

import app
import app.amending
from app.bodies import RequestBody
from app.forms import validated
from app.problems import pointer_of
from tests.fuzzing.targets import Target
from tests.fuzzing.values import nearly

for _folder in pkgutil.iter_modules(app.__path__):  # every resource's
    for _part in ("schemas", "uploads"):
        if _folder.ispkg and (Path(app.__path__[0]) / _folder.name / f"{_part}.py").is_file():
            importlib.import_module(f"app.{_folder.name}.{_part}")


def _bodies(kind: type[BaseModel] = RequestBody) -> list[type[BaseModel]]:
    """Every kind of body: those that lie inside others are tried on their own, too."""
    return [
        part
        for child in kind.__subclasses__()
        if child.__module__.startswith("app.")
        for part in (child, *_bodies(child))
    ]


MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
FIELDS: dict[str, Any] = {
    "name": "bot", "base": "/models/base", "adapter": None, "checkpoints": ["/models/a"],
    "model": "bot", "index": "prod",
    "dataset": "ds_a", "prompt": "Where?", "completion": " There.", "contrast": " Here.", "messages": MESSAGES,
    "generate": {"max_new_tokens": 4}, "span": {"start": 0, "end": 2}, "start": 0, "end": 2, "role": "user",
    "content": "x", "queries": [{"prompt": "p", "completion": "c"}], "measurement": "log_odds", "method": "ekfac",
    "top_k": 3, "filter": {"tags": {"a": "b"}}, "tags": {"a": "b"}, "group_by": "tags.a", "removal": {"ids": ["a"]},
    "ids": ["a"], "options": {"seed": 1}, "metadata": {"team": "x"}, "scopes": ["admin"], "uri": "/rows.jsonl",
    "format": "jsonl", "rows": 3, "training": {"learning_rate": 0.01, "lora": {"r": 2}}, "learning_rate": 0.01,
    "template": {"eos": False}, "reduction": "token_sum", "max_length": 8, "tenant": "a",
    "expires_at": "2027-01-01T00:00:00Z",
    "recipe": {"reduction": "token_sum"}, "dtype": "float32", "max_new_tokens": 4, "custom_id": "a", "drop_share": 0.1,
}  # fmt: skip


def _plausible(kind: type[BaseModel]) -> dict[str, Any]:
    return {name: FIELDS[name] for name in kind.model_fields if name in FIELDS}


def _required(kind: type[BaseModel]) -> dict[str, Any]:
    return {name: FIELDS.get(name, "x") for name, field in kind.model_fields.items() if field.is_required()}


KINDS = sorted(_bodies(), key=lambda kind: kind.__name__)


def _given(kind: type[BaseModel]) -> st.SearchStrategy[tuple[type[BaseModel], Any]]:
    known = [_plausible(kind), _required(kind)]
    return st.tuples(st.just(kind), nearly(known, [*kind.model_fields]))


@contextmanager
def checked(_work: Path) -> Iterator[Callable[[tuple[type[BaseModel], Any]], str | None]]:
    def check(given: tuple[type[BaseModel], Any]) -> str | None:
        kind, value = given
        try:
            body = validated(kind, value)
        except RequestValidationError as error:
            found = error.errors()
        else:
            sent = body.model_dump(mode="json", exclude_unset=True)
            assert kind.model_validate(sent) == body, sent
            return None
        assert found and all(item["msg"] and pointer_of(item["loc"]).startswith(("/", "")) for item in found)
        return "invalid-request"

    yield check


TARGETS = [Target("bodies of requests", st.one_of(*map(_given, KINDS)), checked)]
