"""Sketches: unbiased, adjoint to themselves, the same bytes everywhere."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from engine.modules import TrackedModule
from engine.sketch import EigenSketch, ModuleSketch, Projection, SeparableSketch, outer_sum

sizes = st.integers(1, 7)


def module(outputs: int, inputs: int, name: str = "layer.q", group: str = "layer.q") -> TrackedModule:
    return TrackedModule(name, name, "linear", inputs, outputs, False, group)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def separable(o: int, i: int, p: int, r: int, seed: int) -> SeparableSketch:
    return SeparableSketch(o, i, random(p, o, seed=seed) if p else None, random(r, i, seed=seed + 1) if r else None)


def eigen(o: int, i: int, p: int, r: int, seed: int) -> EigenSketch:
    q_o = torch.linalg.qr(random(o, o, seed=seed + 2))[0]
    q_i = torch.linalg.qr(random(i, i, seed=seed + 3))[0]
    sides = separable(o, i, p, r, seed)
    return EigenSketch(q_o, q_i, random(o, i, seed=seed + 4).abs() + 0.1, sides.left_PO, sides.right_RI)


def apply(sketch: ModuleSketch, a_BTI: Tensor, d_BTO: Tensor) -> Tensor:
    return sketch.sketch(sketch.prepare(a_BTI), d_BTO)


@settings(max_examples=40, deadline=None)
@given(b=sizes, t=sizes, o=sizes, i=sizes, p=st.integers(0, 4), r=st.integers(0, 4), seed=st.integers(0, 99))
@pytest.mark.parametrize("make", [separable, eigen])
def test_adjoint_and_linearity(make, b: int, t: int, o: int, i: int, p: int, r: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    """⟨Φ(G), Φ'⟩ = ⟨G, adjoint(Φ')⟩, and Φ is the stated function of the for-loop gradient G."""
    sketch = make(o, i, p, r, seed)
    a_BTI, d_BTO = random(b, t, i, seed=seed), random(b, t, o, seed=seed + 9)
    phi = apply(sketch, a_BTI, d_BTO)
    assert phi.shape == (b, *sketch.shape)
    other = random(1, *sketch.shape, seed=seed + 5)
    w_OI = sketch.adjoint(other)[0]
    for n in range(b):
        g_OI = sum((torch.outer(d_BTO[n, s], a_BTI[n, s]) for s in range(t)), torch.zeros(o, i, dtype=torch.float64))
        torch.testing.assert_close((phi[n] * other[0]).sum(), (g_OI * w_OI).sum(), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(phi[n], _by_hand(sketch, g_OI), rtol=1e-9, atol=1e-9)


def _by_hand(sketch: SeparableSketch | EigenSketch, g_OI: Tensor) -> Tensor:
    if isinstance(sketch, EigenSketch):
        g_OI = sketch.q_out_OO.T @ g_OI @ sketch.q_in_II * sketch.scale_OI
    left = torch.eye(g_OI.shape[0], dtype=torch.float64) if sketch.left_PO is None else sketch.left_PO
    right = torch.eye(g_OI.shape[1], dtype=torch.float64) if sketch.right_RI is None else sketch.right_RI
    return left @ g_OI @ right.T


def test_bfloat16_is_summed_in_float32() -> None:
    a, d = random(1, 4000, 3).abs().bfloat16(), random(1, 4000, 2, seed=1).abs().bfloat16()
    expected = torch.einsum("bto,bti->boi", d.double(), a.double())
    torch.testing.assert_close(outer_sum(d, a).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("p", "outputs", "inputs"), [(2, 5, 7), (4, 3, 9), (3, 6, 3)])
def test_inner_products_are_unbiased_over_2000_seeds(p: int, outputs: int, inputs: int) -> None:
    """|mean ⟨Φ₁,Φ₂⟩ − ⟨G₁,G₂⟩| ≤ 4 standard errors; sides no wider than p are left alone."""
    g1, g2 = random(outputs, inputs, seed=1).numpy(), random(outputs, inputs, seed=2).numpy()
    tracked = module(outputs, inputs)
    products = []
    for seed in range(2000):
        projection = Projection(p, seed, 0)
        left, right = projection.left(tracked), projection.right(tracked)
        left = np.eye(outputs) if left is None else left
        right = np.eye(inputs) if right is None else right
        products.append(float(((left @ g1 @ right.T) * (left @ g2 @ right.T)).sum()))
    error = np.std(products, ddof=1) / np.sqrt(len(products))
    assert error > 0
    assert abs(np.mean(products) - (g1 * g2).sum()) <= 4 * error


def test_entries_have_variance_one_over_p_and_rows_are_not_normalised_away() -> None:
    right = Projection(16, 0, 0).right(module(4, 300))
    assert right is not None and right.shape == (16, 300)
    assert set(np.unique(np.abs(right))) == {0.25}
    assert abs(right.mean()) < 0.02


def test_a_side_no_wider_than_p_is_not_projected() -> None:
    projection = Projection(8, 0, 0)
    assert projection.left(module(8, 20)) is None
    assert projection.right(module(8, 20)) is not None
    assert projection.shape(module(8, 20)) == (8, 8)
    assert Projection(None, 0, 0).right(module(8, 20)) is None


def test_modules_of_an_input_group_share_the_right_side_only() -> None:
    projection = Projection(4, 0, 0)
    q, k = module(9, 12, "l.q", "l.q"), module(9, 12, "l.k", "l.q")
    assert np.array_equal(projection.right(q), projection.right(k))  # type: ignore[arg-type]
    assert not np.array_equal(projection.left(q), projection.left(k))  # type: ignore[arg-type]
    assert not np.array_equal(projection.right(q), Projection(4, 0, 1).right(q))  # type: ignore[arg-type]


def test_the_same_seed_in_another_process_gives_identical_bytes() -> None:
    code = (
        "from tests.engine.test_sketch import module; from engine.sketch import Projection; import sys;"
        "sys.stdout.buffer.write(Projection(4, 7, 1).right(module(3, 40)).tobytes())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    mine = Projection(4, 7, 1).right(module(3, 40))
    assert mine is not None and other == mine.tobytes()


class _LargestTensor(TorchDispatchMode):
    """The most numbers any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        made = [result] if isinstance(result, Tensor) else []
        self.numbers = max([self.numbers, *(tensor.numel() for tensor in made)])
        return result


@pytest.mark.parametrize("make", [separable, eigen])
@pytest.mark.parametrize("width", [0, 3])
def test_no_outer_product_per_position_is_ever_formed(make, width: int) -> None:  # type: ignore[no-untyped-def]
    """B·T·O·I numbers are what makes attribution's memory explode: Σ_t δ_t a_tᵀ is one product of matrices."""
    b, t, o, i = 3, 64, 6, 8
    sketch = make(o, i, width, width, 0)
    with _LargestTensor() as largest:
        apply(sketch, random(b, t, i), random(b, t, o, seed=1))
    rows, cols = sketch.shape
    assert 0 < largest.numbers <= b * t * max(o, i) < b * t * rows * cols
