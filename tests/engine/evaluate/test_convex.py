"""Where theory is exact, influence is right: logistic regression trained to optimality, every row really left out.

Removing row i from the loss takes p(1−p)·x_i x_iᵀ out of the Hessian too. By Sherman and Morrison one Newton step
from the full optimum then changes f by influence_i / (1 − h_i), with the leverage h_i = p(1−p)·x_iᵀ H⁻¹ x_i.
What is left is the second order of f and of the loss; it grows with the weights. True logits have deviation 1 here;
where the classes are nearly separable, single held-out rows' slopes stray further than 0.05.

Shapes: N rows, D features, Q held-out rows, M subsets.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from engine.evaluate.lds import predict, score_lds

ROWS, FEATURES, RIDGE = 300, 20, 1.0


def problem(seed: int, rows: int) -> np.ndarray:
    """Signed features y·x [rows, D], y = ±1 by a logistic model with true weights of norm 1."""
    rng = np.random.default_rng(seed)
    x_ND, truth_D = rng.standard_normal((rows, FEATURES)), np.random.default_rng(7).standard_normal(FEATURES)
    logit_N = x_ND @ (truth_D / np.linalg.norm(truth_D))
    return np.where(rng.random(rows) < 1 / (1 + np.exp(-logit_N)), 1.0, -1.0)[:, None] * x_ND


def wrong(signed_ND: np.ndarray, w_D: np.ndarray) -> np.ndarray:
    """The probability of the other label, 1 − p(y|x)."""
    return 1 / (1 + np.exp(signed_ND @ w_D))


def log_likelihood(signed_QD: np.ndarray, w_D: np.ndarray) -> np.ndarray:
    """log p(y|x) [Q], nats."""
    return -np.logaddexp(0, -signed_QD @ w_D)


def hessian(signed_ND: np.ndarray, w_D: np.ndarray) -> np.ndarray:
    q_N = wrong(signed_ND, w_D)
    return (signed_ND * (q_N * (1 - q_N))[:, None]).T @ signed_ND + RIDGE * np.eye(FEATURES)


def train(signed_ND: np.ndarray) -> np.ndarray:
    """argmin Σ −log p + ½·RIDGE·‖w‖², by Newton until the gradient is rounding error."""
    w_D = np.zeros(FEATURES)
    for _ in range(100):
        gradient_D = RIDGE * w_D - signed_ND.T @ wrong(signed_ND, w_D)
        if np.abs(gradient_D).max() < 1e-11:
            return w_D
        w_D = w_D - np.linalg.solve(hessian(signed_ND, w_D), gradient_D)
    raise AssertionError("Newton did not converge")


def influence(signed_ND: np.ndarray, held_out_QD: np.ndarray, w_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(∇f(q)ᵀ H⁻¹ ∇log p(i) [Q, N], leverage [N])."""
    inverse_DD = np.linalg.inv(hessian(signed_ND, w_D))
    q_N = wrong(signed_ND, w_D)
    gradients_ND, gradients_QD = q_N[:, None] * signed_ND, wrong(held_out_QD, w_D)[:, None] * held_out_QD
    leverage_N = q_N * (1 - q_N) * np.einsum("nd,de,ne->n", signed_ND, inverse_DD, signed_ND)
    return gradients_QD @ inverse_DD @ gradients_ND.T, leverage_N


def leave_one_out(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(influence [Q, N], the same over 1 − leverage, f with every row minus f retrained without it) in nats.

    The queries: 40 held-out rows, and as the last one all of them together.
    """
    signed_ND, held_out_QD = problem(seed, ROWS), problem(seed + 100, 40)
    w_D = train(signed_ND)
    influence_QN, leverage_N = influence(signed_ND, held_out_QD, w_D)
    retrained = [log_likelihood(held_out_QD, train(np.delete(signed_ND, n, axis=0))) for n in range(ROWS)]
    effect_QN = log_likelihood(held_out_QD, w_D)[:, None] - np.stack(retrained, axis=1)
    every = (influence_QN, influence_QN / (1 - leverage_N), effect_QN)
    influence_QN, corrected_QN, effect_QN = (np.vstack([each, each.sum(axis=0)]) for each in every)
    return influence_QN, corrected_QN, effect_QN


@pytest.mark.parametrize("seed", range(5))
def test_influence_over_1_minus_leverage_is_leave_one_out_retraining(seed: int) -> None:
    """Pearson ≥ 0.99 and slope 1 ± 0.05 over all 300 rows, for every held-out row and for all of them together."""
    influence_QN, corrected_QN, effect_QN = leave_one_out(seed)
    for corrected_N, effect_N in zip(corrected_QN, effect_QN, strict=True):
        slope, _, pearson, *_ = stats.linregress(corrected_N, effect_N)
        assert pearson >= 0.99
        assert slope == pytest.approx(1.0, abs=0.05)
    uncorrected = stats.linregress(influence_QN[-1], effect_QN[-1])[0]
    print(f"seed {seed}, all rows: Pearson {pearson:.4f}, slope {slope:.4f}, {uncorrected:.4f} without 1 − leverage")
    assert uncorrected > 1.05, "the correction is what makes the slope right"


def test_lds_of_exact_influence_against_real_retraining_is_near_1() -> None:
    """60 subsets without 2 % of the rows, each retrained; the scores' opposite is as far below zero."""
    signed_ND, held_out_QD = problem(0, ROWS), problem(100, 20)
    influence_QN, _ = influence(signed_ND, held_out_QD, train(signed_ND))
    kept_MN = np.argsort(np.random.default_rng(0).random((60, ROWS)), axis=1) >= ROWS // 50
    outcome_QM = np.stack([log_likelihood(held_out_QD, train(signed_ND[kept_N])) for kept_N in kept_MN], axis=1)
    found = score_lds(predict(influence_QN, kept_MN), outcome_QM)
    assert found.low is not None and found.low > 0.95
    assert found.significant_share == 1.0
    assert score_lds(predict(-influence_QN, kept_MN), outcome_QM).value == pytest.approx(-found.value)  # type: ignore[operator]
