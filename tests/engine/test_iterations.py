"""Iterations against direct solves and explicit matrix functions, on random shapes.

Shapes: K vectors, D numbers of one.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.curvature.iterations import conjugate_gradients, lanczos, largest_eigenvalue, richardson

sizes = st.integers(1, 9)


def positive(size: int, seed: int, condition: float = 50.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    values = torch.logspace(0, torch.log10(torch.tensor(condition)).item(), size, dtype=torch.float64)
    return basis @ torch.diag(values) @ basis.T


def goals(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))


@settings(deadline=None, max_examples=30)
@given(k=sizes, d=sizes, seed=st.integers(0, 99))
def test_richardson_and_conjugate_gradients_reach_the_direct_solve(k: int, d: int, seed: int) -> None:
    a_DD, goal_KD = positive(d, seed), goals(k, d, seed)
    goal_KD[0] = 0
    expected_KD = torch.linalg.solve(a_DD, goal_KD.T).T
    for u_KD, left_K in (
        richardson(lambda v: v @ a_DD, goal_KD, 40.0, 1e-10, 5000),
        conjugate_gradients(lambda v: v @ a_DD, goal_KD, lambda v: v / a_DD.diagonal(), 1e-10, 200),
    ):
        torch.testing.assert_close(u_KD, expected_KD, rtol=1e-7, atol=1e-7)
        assert float(left_K.max()) <= 1e-9


def test_each_vector_stops_by_itself() -> None:
    """Exactly the same numbers alone as beside one that takes longer."""
    a_DD = torch.diag(torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64))
    easy_1D, hard_1D = torch.tensor([[0.0, 0, 1]]).double(), torch.tensor([[1.0, 1, 1]]).double()
    for solve in (
        lambda g: richardson(lambda v: v * a_DD.diagonal(), g, 40.0, 1e-3, 999)[0],
        lambda g: conjugate_gradients(lambda v: v * a_DD.diagonal(), g, lambda v: v, 1e-3, 99)[0],
    ):
        both_2D = solve(torch.cat([easy_1D, hard_1D]))
        assert torch.equal(both_2D[:1], solve(easy_1D)) and torch.equal(both_2D[1:], solve(hard_1D))


def test_too_few_iterations_are_told_by_the_residual() -> None:
    a_DD, goal_KD = positive(6, 1, 1e4), goals(2, 6, 1)
    u_KD, left_K = richardson(lambda v: v @ a_DD, goal_KD, 0.75e4, 1e-6, 20)
    expected_K = (goal_KD - u_KD @ a_DD).norm(dim=1) / goal_KD.norm(dim=1)
    torch.testing.assert_close(left_K, expected_K)
    assert float(left_K.min()) > 1e-6


def test_a_step_too_long_for_the_spectrum_ends_at_once() -> None:
    calls = 0

    def apply(v_KD: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 5 * v_KD

    left_K = richardson(apply, goals(1, 3, 1), 1.0, 1e-3, 10_000)[1]
    assert float(left_K) > 1e3 and calls < 30


def test_conjugate_gradients_need_fewer_products_than_richardson() -> None:
    """The same preconditioner, near the inverse but not it; both with their best: ASTRA's iteration against ours."""
    a_DD, goal_KD = positive(40, 2, 1e4), goals(1, 40, 2)
    other_DD = positive(40, 3, 3.0)
    near_DD = torch.linalg.inv(a_DD)
    root_DD = torch.linalg.cholesky(near_DD)
    near_DD = root_DD @ other_DD @ root_DD.T
    calls = 0

    def apply(v_KD: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return v_KD @ a_DD

    richardson(apply, goal_KD, 2.0, 1e-8, 999, lambda v: v @ near_DD)  # spectrum within [1, 3]: the best step
    plain, calls = calls, 0
    u_KD, _ = conjugate_gradients(apply, goal_KD, lambda v: v @ near_DD, 1e-8, 999)
    torch.testing.assert_close(u_KD[0], torch.linalg.solve(a_DD, goal_KD[0]), rtol=1e-5, atol=1e-7)
    assert calls < 0.7 * plain


@settings(deadline=None, max_examples=25)
@given(d=sizes, seed=st.integers(0, 99))
@example(d=8, seed=64)  # a start that is nearly orthogonal to the first eigenvector
def test_the_largest_eigenvalue_is_never_far_below(d: int, seed: int) -> None:
    a_DD = positive(d, seed)
    found = largest_eigenvalue(lambda v: v @ a_DD, goals(1, d, seed)[0])
    top = float(torch.linalg.eigvalsh(a_DD)[-1])
    assert 0.8 * top <= found <= top * (1 + 1e-9)


def test_an_operator_of_zeros_has_eigenvalue_zero() -> None:
    assert largest_eigenvalue(torch.zeros_like, torch.ones(3)) == 0.0


@settings(deadline=None, max_examples=40)
@given(d=st.integers(1, 20), seed=st.integers(0, 99), rank=st.integers(1, 20))
def test_lanczos_is_the_matrix_function(d: int, seed: int, rank: int) -> None:
    """Also of a singular matrix, whose Krylov space ends early."""
    factor = goals(d, min(rank, d), seed)
    a_DD, v_D = factor @ factor.T, goals(1, d, seed + 7)[0]
    values, vectors = torch.linalg.eigh(a_DD)
    expected_D = vectors @ (torch.exp(-values.clamp_min(0)) * (vectors.T @ v_D))
    found_D = lanczos(lambda v: v @ a_DD, v_D, lambda x: torch.exp(-x), 1e-12, 100)
    torch.testing.assert_close(found_D, expected_D, rtol=1e-8, atol=1e-8)


def test_lanczos_stops_once_nothing_changes_and_leaves_zero_alone() -> None:
    a_D, calls = torch.linspace(0, 2, 400, dtype=torch.float64), 0

    def apply(v_KD: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return v_KD * a_D

    v_D = goals(1, 400, 3)[0]
    found_D = lanczos(apply, v_D, lambda x: torch.exp(-x), 1e-6, 300)
    torch.testing.assert_close(found_D, torch.exp(-a_D) * v_D, rtol=1e-4, atol=1e-6)
    assert calls <= 32
    assert not lanczos(apply, torch.zeros(400), torch.exp, 1e-6, 9).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_of_the_vectors_is_kept(dtype: torch.dtype) -> None:
    v_D = torch.ones(3, dtype=dtype)
    assert lanczos(lambda v: 2 * v, v_D, lambda x: x, 1e-6, 9).dtype == dtype
    assert richardson(lambda v: 2 * v, v_D[None], 2.0, 1e-3, 9)[0].dtype == dtype
