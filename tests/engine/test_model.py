"""Loading: what works, and every way a model directory can be wrong, each with its own error and remedy."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from engine.before import module_before
from engine.config import IndexConfig, ModelConfig, Recipe
from engine.errors import (
    AdapterBaseMismatch,
    InvalidOption,
    ModelPathNotFound,
    NotAModel,
    UnsafeWeights,
    UnsupportedModel,
)
from engine.model import load_model
from engine.plan import select_checkpoints
from tests import factories


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return factories.save_base(tmp_path / "base", factories.llama())


def adapter(tmp_path: Path, seed: int = 1, **options: object) -> str:
    return str(factories.save_adapter(tmp_path / f"adapter-{seed}", factories.llama(), seed, **options))


def config(base: Path, **fields: object) -> ModelConfig:
    return replace(ModelConfig(str(base), recipe=Recipe()), **fields)  # type: ignore[arg-type]


def test_a_dense_model_alone_has_no_known_base(base: Path) -> None:
    model = load_model(config(base))
    assert not model.lora and model.before is None and len(model.states) == 1
    assert all(not parameter.requires_grad for parameter in model.module.parameters())
    assert not model.module.training


def test_dense_checkpoints_switch_weights_and_keep_the_base(base: Path, tmp_path: Path) -> None:
    tuned = [str(factories.save_base(tmp_path / f"step-{seed}", factories.llama(seed))) for seed in (3, 4)]
    model = load_model(config(base, checkpoints=tuple(tuned)))
    name = "model.layers.0.mlp.up_proj.weight"
    weight = dict(model.module.named_parameters())[name]
    for index, seed in ((0, 3), (1, 4), (-1, 4)):
        model.use(index)
        assert torch.equal(weight, dict(factories.llama(seed).named_parameters())[name])
    assert model.before is not None
    before = dict(model.before.named_parameters())[name]
    assert torch.equal(before, dict(factories.llama(0).named_parameters())[name])
    assert torch.equal(weight, dict(factories.llama(4).named_parameters())[name])


def test_adapter_checkpoints_switch_and_the_base_is_the_model_without_adapter(base: Path, tmp_path: Path) -> None:
    paths = (adapter(tmp_path, 1), adapter(tmp_path, 2))
    model = load_model(config(base, checkpoints=paths, adapter=paths[1]))
    assert [state.label for state in model.states] == ["adapter-1", "adapter-2"]  # the repeated adapter counts once
    ids = torch.tensor([[1, 20, 30, 40]])

    def logits() -> torch.Tensor:
        return model.module(input_ids=ids).logits

    model.use(0)
    first = logits()
    model.use(1)
    second = logits()
    assert model.before is not None
    assert torch.allclose(model.before(input_ids=ids).logits, factories.llama().eval()(input_ids=ids).logits, atol=1e-6)
    assert torch.equal(logits(), second) and not torch.allclose(first, second, atol=1e-3)


def test_the_model_before_shares_every_weight_and_no_hook_and_all_stay_frozen(base: Path, tmp_path: Path) -> None:
    """PEFT makes an adapter trainable when it is switched: weight gradients would pile up unseen."""
    model = load_model(config(base, adapter=adapter(tmp_path)))
    assert model.before is not None
    tensors = {p.data_ptr() for p in model.module.parameters()}
    assert {p.data_ptr() for p in model.before.parameters()} == tensors
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    calls: list[str] = []
    inner = model.module.get_input_embeddings()  # type: ignore[operator]
    inner.register_forward_hook(lambda *_: calls.append("tuned"))
    ids = torch.tensor([[1, 20, 30, 40]])
    before = module_before(model.module, None)
    before(input_ids=ids)
    assert not calls
    assert torch.equal(before(input_ids=ids).logits, model.before(input_ids=ids).logits)
    model.module(input_ids=ids)
    assert calls == ["tuned"]


def test_labels_stay_distinct_when_directories_share_a_name(base: Path, tmp_path: Path) -> None:
    paths = []
    for seed in (1, 2):
        source = Path(adapter(tmp_path, seed))
        target = tmp_path / f"run-{seed}" / "final"
        shutil.copytree(source, target)
        paths.append(str(target))
    labels = [state.label for state in load_model(config(base, checkpoints=tuple(paths))).states]
    assert labels == ["final#0", "final#1"]


def test_an_adapter_that_copies_an_earlier_checkpoint_is_still_the_tuned_model(base: Path, tmp_path: Path) -> None:
    """As `load_best_model_at_end` leaves it: the adapter is epoch 1 of 3. It answers to both of its names."""
    paths = [adapter(tmp_path, seed) for seed in (1, 2, 3)]
    best = tmp_path / "best"
    shutil.copytree(paths[0], best)
    model = load_model(config(base, checkpoints=tuple(paths), adapter=str(best)))
    assert [state.labels for state in model.states] == [("adapter-2",), ("adapter-3",), ("adapter-1", "best")]
    alone = load_model(config(base, adapter=str(best)))
    model.use(0)
    model.use(-1)
    for (name, one), (_, two) in zip(model.module.named_parameters(), alone.module.named_parameters(), strict=True):
        assert torch.equal(one, two), name
    for label in ("best", "adapter-1"):
        assert select_checkpoints(model, IndexConfig(checkpoints=(label,))) == (2,)


def test_fingerprints_follow_content_not_place(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "copy"
    shutil.copytree(base, moved)
    one, two = load_model(config(base)), load_model(config(moved))
    assert one.info().fingerprint == two.info().fingerprint
    other = factories.save_base(tmp_path / "other", factories.llama(5))
    assert load_model(config(other)).info().fingerprint != one.info().fingerprint


def test_a_missing_path(tmp_path: Path) -> None:
    with pytest.raises(ModelPathNotFound, match="nowhere"):
        load_model(config(tmp_path / "nowhere"))


@pytest.mark.parametrize(("name", "text"), [("config.json", None), ("config.json", "{"), ("config.json", "[]")])
def test_not_a_model(base: Path, name: str, text: str | None) -> None:
    (base / name).unlink()
    if text is not None:
        (base / name).write_text(text)
    with pytest.raises(NotAModel, match=name):
        load_model(config(base))


def test_a_model_without_weights_and_one_with_some_missing(base: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(base / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotAModel, match=r"lacks weights: model\.norm\.weight"):
        load_model(config(base))
    (base / "model.safetensors").unlink()
    with pytest.raises(NotAModel, match="safetensors"):
        load_model(config(base))


def test_damaged_weights(base: Path) -> None:
    (base / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(NotAModel):
        load_model(config(base))


def test_an_unknown_architecture(base: Path) -> None:
    values = json.loads((base / "config.json").read_text()) | {"model_type": "nonesuch", "architectures": ["Nonesuch"]}
    (base / "config.json").write_text(json.dumps(values))
    with pytest.raises(NotAModel, match="nonesuch"):
        load_model(config(base))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.ckpt"])
def test_pickled_weights_are_never_loaded(base: Path, name: str) -> None:
    (base / "model.safetensors").rename(base / name)
    with pytest.raises(UnsafeWeights, match=name):
        load_model(config(base))


def test_remote_code_is_never_run(base: Path) -> None:
    values = json.loads((base / "config.json").read_text()) | {"auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (base / "config.json").write_text(json.dumps(values))
    with pytest.raises(UnsupportedModel, match="own Python code"):
        load_model(config(base))


def test_an_adapter_of_another_base(base: Path, tmp_path: Path) -> None:
    wide = factories.save_adapter(tmp_path / "wide", factories.llama(hidden=32), 1)
    with pytest.raises(AdapterBaseMismatch, match="wide"):
        load_model(config(base, adapter=str(wide)))
    deep = factories.save_adapter(tmp_path / "deep", factories.llama(layers=3), 1)
    with pytest.raises(AdapterBaseMismatch, match="deep"):
        load_model(config(base, adapter=str(deep)))
    conv = factories.save_adapter(tmp_path / "conv", factories.gpt2(), 1)
    with pytest.raises(AdapterBaseMismatch, match="conv"):
        load_model(config(base, adapter=str(conv)))


def test_an_adapter_in_the_place_of_the_base(base: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAModel, match="is an adapter"):
        load_model(config(Path(adapter(tmp_path))))


def test_mixed_and_unlike_checkpoints(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="mix"):
        load_model(config(base, checkpoints=(adapter(tmp_path), str(base))))
    with pytest.raises(UnsupportedModel, match="differ in r"):
        load_model(config(base, checkpoints=(adapter(tmp_path, 2), adapter(tmp_path, 3, r=2))))
    other = factories.save_base(tmp_path / "deeper", factories.llama(layers=3))
    with pytest.raises(UnsupportedModel, match="not a fine-tune"):
        load_model(config(base, checkpoints=(str(other),)))


def test_a_tokenizer_that_is_not_there(base: Path) -> None:
    for file in base.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(NotAModel, match="tokenizer"):
        load_model(config(base))


def test_untracked_parts_of_an_adapter_are_named(base: Path, tmp_path: Path) -> None:
    path = adapter(tmp_path, 4, modules_to_save=["lm_head", "embed_tokens"], use_dora=True)
    model = load_model(config(base, adapter=path))
    coverage = model.coverage(model.tracked(None))
    tracked = {module.name for module in model.tracked(None)}
    assert "lm_head.modules_to_save" in tracked and "model.layers.0.mlp.up_proj.lora_magnitude_vector" in tracked
    assert [untracked.module for untracked in coverage.untracked] == ["model.embed_tokens.modules_to_save"]
    assert coverage.untracked[0].parameters == factories.VOCABULARY * 16
    assert "Embedding is not a Linear" in coverage.untracked[0].reason


class Doubled(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def test_a_linear_subclass_is_not_trusted_but_named(base: Path) -> None:
    from engine import modules

    module = factories.llama()
    layer = module.model.layers[0].mlp.up_proj
    module.model.layers[0].mlp.up_proj = Doubled(layer.in_features, layer.out_features, bias=False)
    tracked = modules.find_tracked(module, lora=False, patterns=None)
    assert not any("layers.0.mlp.up_proj" in m.name for m in tracked)
    reasons = {u.module: u.reason for u in modules.coverage(module, tracked, lora=False).untracked}
    assert "replaces Linear's forward" in reasons["model.layers.0.mlp.up_proj"]


def test_module_patterns(base: Path) -> None:
    model = load_model(config(base))
    assert {m.name.rsplit(".", 1)[1] for m in model.tracked((r"mlp\.",))} == {"gate_proj", "up_proj", "down_proj"}
    with pytest.raises(InvalidOption, match="No module matches"):
        model.tracked(("nothing-like-this",))


def test_bfloat16_loads_and_info_counts(base: Path) -> None:
    model = load_model(config(base, dtype="bfloat16"))
    assert next(model.module.parameters()).dtype == torch.bfloat16
    info = model.info()
    assert info.parameters == info.trained_parameters == sum(p.numel() for p in model.module.parameters())
    assert info.context_length == 128 and info.trained_modules == 14
