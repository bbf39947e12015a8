"""Patterns that take longer than the universe: callers choose modules by regular expression, and Python's `re` would
hold every thread of the server meanwhile."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from engine.causal.stack import _target_names
from engine.errors import InvalidOption
from engine.modules import find_tracked
from engine.patterns import SECONDS, matching
from tests import factories
from tests.app.resources import add_dataset, add_model, assert_problem

# Of `re`, each takes years for names of forty characters; `regex` sees through all but the first.
EVIL = [r"^(?:[a-z]|[a-z_]|\w|\.)+[xyz]$", r"(.*)*!", r"^(\w+\.?)+$(?<=!)", r"((a|a)+)+!", r"(?:(?:(?:.*)*)*)*!"]


def test_modules_of_an_index() -> None:
    began = time.monotonic()
    for pattern in EVIL:
        with pytest.raises(InvalidOption) as caught:
            find_tracked(factories.llama(), lora=False, patterns=[pattern])
        assert caught.value.pointer == "/options/modules" and caught.value.remedy
    assert time.monotonic() - began < 30


def test_targets_of_a_recipe() -> None:
    began = time.monotonic()
    with pytest.raises(InvalidOption, match="it takes more than 1 s") as caught:
        _target_names(factories.llama(), r"(?:[a-z]|[a-z_]|\w|\.)+[!x]$")
    assert caught.value.pointer == "/recipe/training/lora/targets" and time.monotonic() - began < 30
    assert len(_target_names(factories.llama(), r".*\.(q|v)_proj")) == 4


def test_other_threads_go_on_meanwhile() -> None:
    looking = threading.Thread(target=slow)
    looking.start()
    turns = 0
    while looking.is_alive() and turns < 5:
        time.sleep(SECONDS / 50)
        turns += 1
    assert turns == 5
    looking.join()


def slow() -> None:
    with suppress(InvalidOption):
        matching(EVIL[0], ["layers.10.self_attn.q_proj.lora_A"], whole=False, pointer="/x")


@pytest.mark.parametrize("pattern", ["(", "a" * 501, "(" * 240 + ")" * 240 + "[", "a{99999999999}", "*"])
def test_a_pattern_that_is_none_is_refused_with_the_request(client: TestClient, model_dir: Path, pattern: str) -> None:
    body = {"model": add_model(client, model_dir)["id"], "dataset": add_dataset(client)["id"]}
    asked = client.post("/v1/indexes", json=body | {"method": "ekfac", "options": {"modules": [pattern]}})
    assert assert_problem(asked, 422, "invalid-option")["errors"][0]["pointer"].startswith("/options")
