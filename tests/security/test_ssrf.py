"""Addresses in the place of paths: the service calls nobody, whatever a request or a model's files name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests import factories
from tests.app.fakes import FakeEngine
from tests.security.hostile import Listener, listening

ADDRESSES = [
    "http://127.0.0.1:{port}/rows.jsonl",
    "HTTPS://127.0.0.1:{port}/rows.jsonl",
    "http:/127.0.0.1:{port}/rows.jsonl",
    "http:\\\\127.0.0.1:{port}\\rows.jsonl",
    " http://127.0.0.1:{port}/rows.jsonl",
    "//127.0.0.1:{port}/rows.jsonl",
    "\\\\127.0.0.1@{port}\\share",
    "http://169.254.169.254/latest/meta-data",
    "s3://bucket/rows.jsonl",
    "gs://bucket/rows.jsonl",
    "hdfs://127.0.0.1:{port}/rows",
    "ftp://127.0.0.1:{port}/rows",
    "gopher://127.0.0.1:{port}/_GET",
    "hf://datasets/org/name",
    "org/name",
    "org/name@main",
    "gpt2",
    "file://127.0.0.1:{port}/rows.jsonl",
    "jar:http://127.0.0.1:{port}!/rows",
    "data:text/plain,{}",
]


@pytest.fixture
def listener() -> Any:
    with listening() as found:
        yield found


def test_no_field_takes_an_address(
    client: TestClient, model_dir: Path, engine: FakeEngine, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HF_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listener.port}")  # names that lead nowhere would lead here
    good = {"name": "bot", "base": str(model_dir)}
    for address in (address.replace("{port}", str(listener.port)) for address in ADDRESSES):
        fields = ({"base": address}, {"adapter": address}, {"checkpoints": [address]}, {"tokenizer": address})
        asked = [client.post("/v1/models", json=good | field) for field in fields]
        asked.append(client.post("/v1/datasets", json={"name": "train", "uri": address}))
        for answer in asked:
            assert answer.status_code == 422 and answer.json()["remedy"], (address, answer.text)
    assert engine.calls == [] and not listener.was_called


def test_what_a_model_directory_names_is_not_fetched(tmp_path: Path, listener: Listener) -> None:
    """In a process that nobody told to stay offline, and whose every way out leads to the listener."""
    base = factories.save_base(tmp_path / "base", factories.llama())
    adapter = factories.save_adapter(tmp_path / "adapter", factories.llama(), 1)
    (tmp_path / "cases.json").write_text(json.dumps(_naming_the_hub(tmp_path, base, adapter)))
    address = f"http://127.0.0.1:{listener.port}"
    ways = dict.fromkeys(("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), address)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", LOAD_ALL, str(tmp_path / "cases.json")],
        env=kept | ways | {"PYTHONPATH": str(root), "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": ""},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    outcomes = dict(line.split(" ", 1) for line in ended.stdout.splitlines())
    assert outcomes["plain"] == "loaded" and outcomes["hub"] == "offline"
    assert set(outcomes.values()) <= {"loaded", "offline", "NotAModel", "UnsupportedModel", "AdapterBaseMismatch"}
    assert not listener.was_called


LOAD_ALL = """
import json, sys, threading
from pathlib import Path
from engine.config import ModelConfig, Recipe
from engine.errors import ModelError
from engine.model import load_model
from transformers import AutoConfig

def tried(config):
    try:
        load_model(ModelConfig(recipe=Recipe(), **config))
        return "loaded"
    except ModelError as error:
        return type(error).__name__

for name, config in json.loads(Path(sys.argv[1]).read_text()).items():
    print(name, tried(config), flush=True)
try:
    AutoConfig.from_pretrained("org/name")  # what is left when a check of ours was forgotten
except OSError as error:
    print("hub", "offline" if "offline" in str(error).lower() else error)
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
"""


def _naming_the_hub(tmp_path: Path, base: Path, adapter: Path) -> dict[str, dict[str, str]]:
    """Directories whose files say that something lies at the Hub."""
    cases = {"plain": {"base": str(base), "adapter": str(adapter)}}

    def changed(name: str, source: Path, file: str, **values: Any) -> Path:
        directory = shutil.copytree(source, tmp_path / name)
        path = directory / file
        path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))
        cases[name] = {"base": str(directory)} if source is base else {"base": str(base), "adapter": str(directory)}
        return directory

    changed("tokenizer", base, "tokenizer_config.json", auto_map={"AutoTokenizer": ["org/name--a.T", "org/name--a.T"]})
    (changed("no-tokenizer", base, "config.json", _name_or_path="org/name") / "tokenizer.json").unlink()
    changed("mistral", base, "config.json", transformers_version="4.40.0", model_type="mistral", vocab_size=200_000)
    changed("kernel", base, "config.json", attn_implementation="org/kernel")
    changed("flash", base, "config.json", attn_implementation="flash_attention_2")
    changed("generate", base, "generation_config.json", custom_generate="org/name", assistant_model="org/name")
    changed("base-name", adapter, "adapter_config.json", base_model_name_or_path="org/name", revision="main")
    (changed("no-weights", adapter, "adapter_config.json") / "adapter_model.safetensors").unlink()
    return cases
