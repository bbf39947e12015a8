"""Quantised bases: LoRA on 8-bit and 4-bit weights, exact for the quantised model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine import quantized
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.errors import EngineUnavailable, InvalidOption, UnsupportedModel
from engine.model import load_model
from tests import factories
from tests.engine.model_zoo import assert_covered, assert_exact, load

SCHEMES = ("4bit", "8bit")


@pytest.fixture
def installed() -> None:
    pytest.importorskip("bitsandbytes", reason="the extra `quant` (bitsandbytes) is not installed")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("scheme", "dora"), [("4bit", False), ("4bit", True), ("8bit", False)])
def test_gradients_through_a_quantised_base(scheme: str, dora: bool, tmp_path: Path) -> None:
    lora = {"use_dora": dora}
    model = load(tmp_path / "q", factories.llama(hidden=64), lora, dtype="float32", quantization=scheme)
    kinds = {type(module).__name__ for module in model.module.modules()}
    assert {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[scheme] in kinds
    assert_exact(model, tolerance=1e-4)
    assert_covered(model)
    plain = load(tmp_path / "plain", factories.llama(hidden=64), lora, dtype="float32")
    assert model.info().parameters == plain.info().parameters
    assert model.info().fingerprint != plain.info().fingerprint
    ids = torch.tensor([[1, 20, 30, 40]])
    assert not torch.allclose(model.module(input_ids=ids).logits, plain.module(input_ids=ids).logits, atol=1e-3)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_numbers_do_not_depend_on_what_was_computed_before(scheme: str, tmp_path: Path) -> None:
    """A pass without gradients makes bitsandbytes repack 4-bit weights on some CPUs."""
    model = load(tmp_path, factories.llama(hidden=64), {}, dtype="float32", quantization=scheme)
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        first = model.module(input_ids=ids).logits
        assert model.before is not None
        assert not torch.equal(model.before(input_ids=ids).logits, first)
    assert_exact(model, tolerance=1e-4)
    with torch.no_grad():
        assert torch.equal(model.module(input_ids=ids).logits, first)
    packed = [getattr(p, "quant_state", None) for p in model.module.parameters()]
    assert not any(getattr(state, "packing_format_for_cpu", False) for state in packed if state is not None)


@pytest.mark.usefixtures("installed")
def test_a_row_of_an_8bit_model_is_alone_in_its_batch(tmp_path: Path) -> None:
    model = load(tmp_path, factories.llama(hidden=64), {}, dtype="float32", quantization="8bit")
    data = factories.dataset(tmp_path / "data", factories.sentences(5))
    info = build_index(model, data, IndexConfig("graddot"), tmp_path / "index", factories.ignore)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert info.rows == 5 and manifest["plan"]["max_batch_rows"] == 1


@pytest.mark.usefixtures("installed")
def test_no_replicas_of_a_quantised_run(tmp_path: Path) -> None:
    model = load(tmp_path, factories.llama(hidden=64), {}, dtype="float32", quantization="4bit")
    data = factories.dataset(tmp_path / "data", factories.sentences(5))
    config = IndexConfig("graddot", options=IndexOptions(replicas=1))
    with pytest.raises(InvalidOption, match="full precision"):
        build_index(model, data, config, tmp_path / "index", factories.ignore)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_cannot_be_quantised_is_refused(scheme: str, tmp_path: Path) -> None:
    factories.save_base(tmp_path / "base", factories.llama())
    adapter = str(factories.save_adapter(tmp_path / "adapter", factories.llama(), 1))
    config = ModelConfig(str(tmp_path / "base"), recipe=Recipe(), quantization=scheme)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModel, match="no adapter"):
        load_model(config)
    with pytest.raises(UnsupportedModel, match="float32 at most"):
        load_model(replace(config, adapter=adapter, dtype="float64"))


def test_dora_on_an_8bit_base_is_refused_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="loses the base's scales"):
        load(tmp_path, factories.llama(), {"use_dora": True}, dtype="float32", quantization="8bit")


def test_a_missing_bitsandbytes_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda _name: None)
    with pytest.raises(EngineUnavailable) as caught:
        load(tmp_path, factories.llama(), {}, dtype="float32", quantization="4bit")
    assert "whence[quant]" in caught.value.remedy


def test_a_base_quantised_by_another_library(tmp_path: Path) -> None:
    factories.save_base(tmp_path / "base", factories.llama())
    file = tmp_path / "base" / "config.json"
    saved = json.loads(file.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    file.write_text(json.dumps(saved))
    with pytest.raises(UnsupportedModel, match="gptq"):
        load_model(ModelConfig(str(tmp_path / "base")))
