"""Hooked gradients against plain autograd, one sequence at a time, in float64 (DESIGN §2.2 to §2.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.batching import plan_batches
from engine.capture import GradientCapture
from engine.config import ModelConfig, Recipe
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.features import GradientFeatures
from engine.model import LoadedModel, load_model
from engine.rows import Batcher
from engine.sketch import Projection
from engine.text import Encoded
from engine.types import Example
from tests import factories, oracles

KINDS = ("llama", "llama-bias", "gpt2", "lora", "lora-gpt2", "dora")


def make(kind: str, root: Path) -> LoadedModel:
    base = {
        "llama-bias": lambda: factories.llama(attention_bias=True, mlp_bias=True),
        "gpt2": factories.gpt2,
        "lora-gpt2": factories.gpt2,
    }.get(kind, factories.llama)()
    if "bias" in kind:
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.1)
    factories.save_base(root / "base", base)
    adapter = None
    if kind.startswith(("lora", "dora")):
        options = {"use_dora": True} if kind == "dora" else {}
        adapter = str(factories.save_adapter(root / "adapter", base, seed=1, **options))
    config = ModelConfig(base=str(root / "base"), adapter=adapter, dtype="float64", recipe=Recipe())
    return load_model(config)


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return make(request.param, tmp_path_factory.mktemp(request.param))


def encode(model: LoadedModel, texts: Sequence[tuple[str, str]]) -> list[Encoded]:
    encoder = model.encoder()
    return [encoder.encode(Example(f"r{i}", prompt=p, completion=c)) for i, (p, c) in enumerate(texts)]


def exact(model: LoadedModel) -> GradientFeatures:
    tracked = model.tracked(None)
    setting = Setting(Statistics(0, 0), Projection(None, 0, 0), 0.0, torch.float64, model.device)
    sketches = get_metric("identity").module_sketches(tracked, setting)
    return GradientFeatures(model, -1, tracked, sketches, unit_norm=False)


def hooked(model: LoadedModel, encoded: list[Encoded], budget: int) -> tuple[Tensor, Tensor]:
    """([B, D], f [B]) in the order of `encoded`, with any batching."""
    features = exact(model)
    rows, values = torch.zeros(len(encoded), features.width, dtype=torch.float64), torch.zeros(len(encoded))
    with GradientCapture(model, features.tracked) as capture:
        for batch in Batcher(model, budget).batches(encoded, [1.0] * len(encoded), list(range(len(encoded)))):
            vectors = features.compute(capture, batch.padded)
            rows[list(batch.slots)] = vectors.vectors_BD
            values[list(batch.slots)] = vectors.outcome.log_prob_B.float()
    return rows, values


TEXTS = [("the cat", " sat on a mat"), ("a", " dog"), ("birds see", " the old sky and ran"), ("x", "y")]


def test_hooks_equal_autograd_with_batch_size_one(model: LoadedModel) -> None:
    encoded = encode(model, TEXTS)
    rows, values = hooked(model, encoded, budget=4096)
    for row, value, one in zip(rows, values, encoded, strict=True):
        expected = oracles.flat(oracles.example_gradients(model, model.tracked(None), one), model.tracked(None))
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(row, expected, rtol=1e-10, atol=1e-10)
        assert value == pytest.approx(float(oracles.log_prob(model, one).detach()), rel=1e-5)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(
        st.tuples(st.text("abc d", max_size=12), st.text("xyz ", min_size=1, max_size=12)), min_size=2, max_size=5
    ),
    budget=st.integers(1, 120),
    order=st.randoms(use_true_random=False),
)
def test_gradients_do_not_depend_on_batching_padding_or_order(
    model: LoadedModel, texts: list[tuple[str, str]], budget: int, order: object
) -> None:
    encoded = encode(model, texts)
    alone, _ = hooked(model, encoded, budget=1)
    shuffled = list(range(len(encoded)))
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    together, _ = hooked(model, [encoded[i] for i in shuffled], budget)
    torch.testing.assert_close(together, alone[shuffled], rtol=1e-10, atol=1e-10)


def test_prompt_positions_count(model: LoadedModel) -> None:
    """δ is not zero at prompt positions: leaving them out would change the gradient."""
    encoded = encode(model, [("the old cat", " ran")])[0]
    rows, _ = hooked(model, [encoded], 4096)
    first_target = encoded.targets.index(True)
    assert first_target > 3
    features = exact(model)

    class Completion(_Recorder):
        def take(self, module, kept, d_BTO):  # type: ignore[no-untyped-def]
            d_BTO = d_BTO.clone()
            d_BTO[:, : first_target - 1] = 0
            self.parts[module.name] = torch.einsum("bto,bti->boi", d_BTO, kept)[0]

    recorder = Completion()
    with GradientCapture(model, features.tracked) as capture:
        batch = next(Batcher(model, 4096).batches([encoded], [1.0], [0])).padded
        capture.run(batch, recorder)
    assert not torch.allclose(oracles.flat(recorder.parts, features.tracked), rows[0], rtol=1e-3)


class _Recorder:
    def __init__(self) -> None:
        self.parts: dict[str, Tensor] = {}

    def keep(self, module, a_BTI):  # type: ignore[no-untyped-def]
        return a_BTI


def test_no_weight_gradient_is_formed_and_dropout_is_off(model: LoadedModel) -> None:
    encoded = encode(model, TEXTS)
    first, _ = hooked(model, encoded, 4096)
    again, _ = hooked(model, encoded, 4096)
    assert torch.equal(first, again)
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_weights_scale_a_rows_gradient(model: LoadedModel) -> None:
    encoded = encode(model, TEXTS[:2])
    features = exact(model)
    with GradientCapture(model, features.tracked) as capture:
        batches = Batcher(model, 4096)
        one = features.compute(capture, next(batches.batches(encoded, [1.0, 1.0], [0, 1])).padded)
        two = features.compute(capture, next(batches.batches(encoded, [0.5, -2.0], [0, 1])).padded)
    order = torch.tensor(plan_batches([len(e.ids) for e in encoded], 4096)[0])
    factors = torch.tensor([0.5, -2.0], dtype=torch.float64)[order].unsqueeze(1)
    torch.testing.assert_close(two.vectors_BD, one.vectors_BD * factors, rtol=1e-10, atol=1e-12)


def test_modules_that_read_the_same_tensor_form_one_group(tmp_path: Path) -> None:
    tracked = make("llama", tmp_path / "dense").tracked(None)
    groups = {m.name.split("layers.0.")[1]: m.group.split("layers.0.")[-1] for m in tracked if "layers.0." in m.name}
    assert groups["self_attn.k_proj"] == groups["self_attn.v_proj"] == groups["self_attn.q_proj"] == "self_attn.q_proj"
    assert groups["mlp.up_proj"] == groups["mlp.gate_proj"] == "mlp.gate_proj"
    assert groups["self_attn.o_proj"] == "self_attn.o_proj"
    lora = make("lora", tmp_path / "lora").tracked(None)
    by_name = {m.name: m.group for m in lora}
    a, b = "model.layers.1.self_attn.{}_proj.lora_A", "model.layers.1.self_attn.{}_proj.lora_B"
    assert by_name[a.format("q")] == by_name[a.format("k")] == by_name[a.format("v")]
    assert len({by_name[b.format(p)] for p in "qkv"}) == 3
