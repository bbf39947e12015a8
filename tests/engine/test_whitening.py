"""Fisher and DataInf against explicit matrices: primal = dual = direct solve, also for a tiny λ in float32.

Shapes: S rows of the sample, D numbers, Q/N vectors on either side.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save
from torch import Tensor

from engine.curvature.datainf import datainf_map
from engine.curvature.fisher import fisher_map, whole
from engine.whitening import BlockMap, inverse_root, spectrum, spectrum_map
from tests import oracles

FLOAT64 = torch.float64
CPU = torch.device("cpu")
rows, widths, seeds = st.integers(1, 9), st.integers(1, 8), st.integers(0, 999)
dampings = st.sampled_from([1e-6, 1e-3, 0.1, 10.0])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=FLOAT64, generator=torch.Generator().manual_seed(seed))


def columns(first: int, second: int) -> list[slice]:
    return [slice(0, first), slice(first, first + second)]


def matrix(row_map: BlockMap) -> Tensor:
    """The map as a matrix, column by column."""
    width = row_map.blocks[-1].columns.stop
    return row_map.apply(torch.eye(width, dtype=FLOAT64)).T


def level(x_SD: Tensor, damping: float) -> float:
    """λ = c·(mean ‖x‖²)/D, by a loop."""
    return damping * sum(float(x @ x) for x in x_SD) / len(x_SD) / x_SD.shape[1]


def explicit_fisher(x_SD: Tensor, damping: float) -> Tensor:
    total = sum((torch.outer(x, x) for x in x_SD), torch.zeros(x_SD.shape[1], x_SD.shape[1], dtype=FLOAT64))
    return total / len(x_SD) + level(x_SD, damping) * torch.eye(x_SD.shape[1], dtype=FLOAT64)


def scores(row_map: BlockMap, q_QD: Tensor, z_ND: Tensor) -> Tensor:
    return row_map.apply(q_QD) @ row_map.apply(z_ND).T


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert (found - expected).norm() <= tolerance * expected.norm()


# --- Fisher ---


@settings(max_examples=80, deadline=None)
@given(s=rows, first=widths, second=widths, damping=dampings, seed=seeds)
def test_fisher_primal_dual_and_direct_solve_agree(s: int, first: int, second: int, damping: float, seed: int) -> None:
    """Every shape from one row to more rows than numbers, so both ways of finding the spectrum are taken."""
    x_SD, q_QD, z_ND = (random(n, first + second, seed=seed + n) for n in (s, 20, 30))
    found = scores(fisher_map(x_SD, columns(first, second), damping), q_QD, z_ND)
    expected = torch.zeros(20, 30, dtype=FLOAT64)
    for block in columns(first, second):
        h = explicit_fisher(x_SD[:, block], damping)
        expected += q_QD[:, block] @ torch.linalg.solve(h, z_ND[:, block].T)
    assert_close(found, expected, 1e-8)


@settings(max_examples=60, deadline=None)
@given(s=rows, first=widths, second=widths, damping=dampings, seed=seeds)
def test_the_full_empirical_fisher_equals_its_dual_form(
    s: int, first: int, second: int, damping: float, seed: int
) -> None:
    """The rows' scores are N(K+NλI)⁻¹k, K the rows' Gram matrix (DESIGN §4): nothing of size D×D."""
    x_ND, q_QD = random(s, first + second, seed=seed), random(4, first + second, seed=seed + 1)
    found = scores(fisher_map(x_ND, whole(columns(first, second)), damping), q_QD, x_ND)
    shift = s * level(x_ND, damping) * torch.eye(s, dtype=FLOAT64)
    expected = s * torch.linalg.solve(x_ND @ x_ND.T + shift, x_ND @ q_QD.T).T
    assert_close(found, expected, 1e-8)


@settings(max_examples=60, deadline=None)
@given(s=rows, d=widths, damping=st.sampled_from([1e-3, 0.1, 10.0]), seed=seeds)
def test_the_sampled_fisher_equals_its_dual_form(s: int, d: int, damping: float, seed: int) -> None:
    """[Φg − ΦΦ̃ᵀ(ÑλI+K̃)⁻¹Φ̃g]/λ: the sample's gradients are not the rows' own."""
    x_SD, q_QD, z_ND = (random(n, d, seed=seed + n) for n in (s, 40, 50))
    found = scores(fisher_map(x_SD, [slice(0, d)], damping), q_QD, z_ND)
    shift = level(x_SD, damping)
    solved = torch.linalg.solve(s * shift * torch.eye(s, dtype=FLOAT64) + x_SD @ x_SD.T, x_SD @ q_QD.T)
    assert_close(found, ((z_ND @ q_QD.T - z_ND @ x_SD.T @ solved) / shift).T, 1e-7)


@pytest.mark.parametrize(("s", "d"), [(40, 100), (100, 40), (40, 40), (39, 40)])
@pytest.mark.parametrize("disk", [False, True])
def test_fisher_is_stable_in_float32_at_a_damping_of_1e_minus_6(s: int, d: int, disk: bool) -> None:
    """Relative error 1e-4 of the float64 solve; the form that subtracts is off by more than a tenth of it."""
    fall_D = torch.logspace(0, -1.5, d, dtype=FLOAT64)
    x_SD, q_QD = (random(s, d) * fall_D).float(), (random(6, d, seed=1) * fall_D).float()
    row_map = fisher_map(x_SD, [slice(0, d)], 1e-6)
    if disk:
        row_map = BlockMap.from_arrays(load(save(row_map.to_arrays())), CPU)
    h = explicit_fisher(x_SD.double(), 1e-6)
    expected = q_QD.double() @ torch.linalg.solve(h, x_SD.double().T)
    found = scores(row_map, q_QD, x_SD)
    assert found.dtype == torch.float32
    assert_close(found.double(), expected, 1e-4)
    if s < d:
        shift = float(level(x_SD.double(), 1e-6))
        solved = torch.linalg.solve(s * shift * torch.eye(s) + x_SD @ x_SD.T, x_SD @ q_QD.T)
        subtracted = ((x_SD @ q_QD.T - x_SD @ x_SD.T @ solved) / shift).T.double()
        assert (subtracted - expected).norm() > 0.1 * expected.norm()


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_usual_dampings_are_kept_in_float32(damping: float) -> None:
    """Relative errors stay below 2e-7/damping + 5e-6 there, which is what lets the basis be short."""
    x_SD, q_QD = random(40, 100).float(), random(6, 100, seed=1).float()
    row_map = fisher_map(x_SD, [slice(0, 100)], damping)
    assert row_map.blocks[0].basis_RD.dtype == torch.float32
    expected = q_QD.double() @ torch.linalg.solve(explicit_fisher(x_SD.double(), damping), x_SD.double().T)
    assert_close(scores(row_map, q_QD, x_SD).double(), expected, 2e-7 / damping + 5e-6)


@settings(max_examples=60, deadline=None)
@given(s=rows, first=widths, second=widths, damping=dampings, seed=seeds)
def test_the_map_is_the_symmetric_inverse_root(s: int, first: int, second: int, damping: float, seed: int) -> None:
    """M = Mᵀ, (H^-½)² = H⁻¹, and undo() gives back what went in."""
    x_SD = random(s, first + second, seed=seed)
    row_map = fisher_map(x_SD, whole(columns(first, second)), damping)
    root = matrix(row_map)
    h = explicit_fisher(x_SD, damping)
    assert_close(root, root.T, 1e-12)
    assert_close(root, oracles.inverse_root(h), 1e-8)
    assert_close(root @ root, torch.linalg.inv(h), 1e-8)
    assert_close(row_map.undo(row_map.apply(x_SD)), x_SD, 1e-8)


@settings(max_examples=40, deadline=None)
@given(s=rows, d=widths, seed=seeds)
def test_without_damping_it_is_the_inverse_or_the_pseudo_inverse(s: int, d: int, seed: int) -> None:
    x_SD = random(s, d, seed=seed)
    if s == d:
        x_SD = x_SD + 2 * torch.eye(d, dtype=FLOAT64)  # a random square matrix may be next to singular
    h = x_SD.T @ x_SD / s
    root = matrix(spectrum_map(x_SD, [slice(0, d)], inverse_root(0.0)))
    expected = torch.linalg.inv(h) if s >= d else torch.linalg.pinv(h, rcond=1e-10)
    assert_close(root @ root, expected, 1e-6)


def test_one_shared_damping_that_grows_gives_graddots_order() -> None:
    x_SD, q_QD = random(30, 50), random(5, 50, seed=1)
    found = scores(fisher_map(x_SD, [slice(0, 50)], 1e6), q_QD, x_SD)
    assert torch.equal(found.argsort(dim=1), (q_QD @ x_SD.T).argsort(dim=1))
    small = scores(fisher_map(x_SD, [slice(0, 50)], 1e-2), q_QD, x_SD)
    assert not torch.equal(small.argsort(dim=1), (q_QD @ x_SD.T).argsort(dim=1))


@settings(max_examples=40, deadline=None)
@given(s=rows, d=st.integers(1, 20), rank=st.integers(0, 4), seed=seeds)
def test_the_spectrum_of_a_sample_of_low_rank(s: int, d: int, rank: int, seed: int) -> None:
    """Orthonormal directions, and σ and them give the sample's moment again, whatever its rank."""
    x_SD = random(s, rank, seed=seed) @ random(rank, d, seed=seed + 1)
    values_R, basis_RD = spectrum(x_SD)
    assert len(values_R) == (d if d <= s else min(s, d, rank))
    torch.testing.assert_close(basis_RD @ basis_RD.T, torch.eye(len(basis_RD), dtype=FLOAT64), rtol=0, atol=1e-12)
    again = basis_RD.T @ torch.diag(values_R) @ basis_RD
    torch.testing.assert_close(again, x_SD.T @ x_SD / s, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("s", "d"), [(8, 30), (30, 8)])
def test_the_spectrum_of_a_sample_that_falls_over_twelve_orders(s: int, d: int) -> None:
    """Directions from a Gram matrix alone would be orthogonal to 1e-4 only."""
    fall_R = torch.logspace(0, -6, 8, dtype=FLOAT64)
    left, right = torch.linalg.qr(random(s, 8))[0], torch.linalg.qr(random(d, 8, seed=1))[0]
    values_R, basis_RD = spectrum(left * fall_R @ right.T)
    torch.testing.assert_close(values_R, fall_R.square() / s, rtol=1e-2, atol=0)
    torch.testing.assert_close(basis_RD @ basis_RD.T, torch.eye(len(basis_RD), dtype=FLOAT64), rtol=0, atol=1e-12)


def test_a_block_in_which_nothing_was_measured_is_mapped_to_zero() -> None:
    x_SD = random(6, 9)
    x_SD[:, :4] = 0
    for make in (fisher_map, datainf_map):
        row_map = make(x_SD, columns(4, 5), 0.1)
        mapped = row_map.apply(random(3, 9, seed=2))
        assert not mapped[:, :4].any() and mapped[:, 4:].all() and torch.isfinite(mapped).all()
        again = BlockMap.from_arrays(load(save(row_map.to_arrays())), CPU)
        assert torch.equal(again.apply(x_SD), row_map.apply(x_SD))


@pytest.mark.parametrize(("dtype", "damping", "kept"), [("float32", 0.1, "float32"), ("float32", 1e-5, "float64")])
def test_maps_survive_the_way_to_disk(dtype: str, damping: float, kept: str) -> None:
    """Float32 on disk for float32 gradients, float64 where a small damping needs it."""
    x_SD = random(5, 9).to(getattr(torch, dtype))
    for make in (fisher_map, datainf_map):
        row_map = make(x_SD, columns(4, 5), damping)
        arrays = load(save(row_map.to_arrays()))
        assert arrays["basis.0000"].dtype == np.dtype(kept)
        assert torch.equal(BlockMap.from_arrays(arrays, CPU).apply(x_SD), row_map.apply(x_SD))


# --- DataInf ---


@settings(max_examples=80, deadline=None)
@given(s=rows, first=widths, second=widths, damping=st.sampled_from([1e-2, 0.1, 10.0]), seed=seeds)
def test_datainf_equals_the_naive_sum(s: int, first: int, second: int, damping: float, seed: int) -> None:
    """(1/(Sλ)) Σ_i [v − (v·g_i)/(λ+‖g_i‖²) g_i], and that it is the mean of the rows' own inverses."""
    x_SD, q_QD, z_ND = (random(n, first + second, seed=seed + n) for n in (s, 20, 30))
    found = scores(datainf_map(x_SD, columns(first, second), damping), q_QD, z_ND)
    expected, by_inverses = torch.zeros(20, 30, dtype=FLOAT64), torch.zeros(20, 30, dtype=FLOAT64)
    for block in columns(first, second):
        shift = level(x_SD[:, block], damping)
        for g in x_SD[:, block]:
            for n, v in enumerate(z_ND[:, block]):
                solved = (v - (v @ g) / (shift + g @ g) * g) / (s * shift)
                expected[:, n] += q_QD[:, block] @ solved
            one = torch.outer(g, g) + shift * torch.eye(len(g), dtype=FLOAT64)
            by_inverses += q_QD[:, block] @ torch.linalg.solve(one, z_ND[:, block].T) / s
    assert_close(found, expected, 1e-10)
    assert_close(found, by_inverses, 1e-10)


@settings(max_examples=60, deadline=None)
@given(s=rows, d=widths, damping=st.sampled_from([1e-2, 0.1, 10.0]), seed=seeds)
def test_datainf_equals_its_gram_form(s: int, d: int, damping: float, seed: int) -> None:
    """From inner products alone: (1/λ)[⟨q,z⟩ − (1/S) Σ_i ⟨q,g_i⟩⟨z,g_i⟩/(λ+K_ii)]."""
    x_SD, q_QD, z_ND = (random(n, d, seed=seed + n) for n in (s, 20, 30))
    shift = level(x_SD, damping)
    diagonal_S = (x_SD @ x_SD.T).diagonal()
    weighted = (q_QD @ x_SD.T) / (shift + diagonal_S)
    expected = (q_QD @ z_ND.T - weighted @ (x_SD @ z_ND.T) / s) / shift
    assert_close(scores(datainf_map(x_SD, [slice(0, d)], damping), q_QD, z_ND), expected, 1e-10)
