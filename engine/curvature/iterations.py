"""Iterations for A u = g, A symmetric and positive definite, known by its products alone.

Every vector stops by itself, so a query's answer does not depend on those asked beside it.

Shapes: K vectors, D numbers of one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Apply = Callable[[Tensor], Tensor]  # [K, D] → [K, D]
_CALM = 5  # power iterations
_DIVERGED = 1e6  # times the residual at the start, which no convergent run comes near


def richardson(
    apply: Apply, goal_KD: Tensor, step: float, tolerance: float, iterations: int, precondition: Apply | None = None
) -> tuple[Tensor, Tensor]:
    """(u [K, D], ‖g − A u‖/‖g‖ [K]): u ← u + P (g − A u)/step from u = 0, until the residual is within tolerance.

    Converges where step > λ_max(PA)/2, and ends early where it sees that it does not. P = 1 without `precondition`.
    """
    u_KD, norms_K = torch.zeros_like(goal_KD), goal_KD.norm(dim=1)
    residual_KD, left_K = goal_KD.clone(), norms_K.clone()
    for _ in range(iterations):
        open_K = (left_K > tolerance * norms_K) & (left_K < _DIVERGED * norms_K)
        if not bool(open_K.any()):
            break
        move_KD = residual_KD[open_K] if precondition is None else precondition(residual_KD[open_K])
        u_KD[open_K] += move_KD / step
        residual_KD[open_K] = goal_KD[open_K] - apply(u_KD[open_K])
        left_K = residual_KD.norm(dim=1)
    return u_KD, _relative(left_K, norms_K)


def conjugate_gradients(
    apply: Apply, goal_KD: Tensor, precondition: Apply, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """(u [K, D], ‖g − A u‖/‖g‖ [K]), preconditioned: Hestenes & Stiefel 1952; Saad 2003, algorithm 9.1."""
    u_KD, residual_KD, norms_K = torch.zeros_like(goal_KD), goal_KD.clone(), goal_KD.norm(dim=1)
    z_KD = precondition(residual_KD)
    direction_KD, energy_K = z_KD.clone(), (residual_KD * z_KD).sum(1)
    left_K = norms_K.clone()
    for _ in range(iterations):
        open_K = (left_K > tolerance * norms_K) & (energy_K > 0)
        if not bool(open_K.any()):
            break
        along_KD = direction_KD[open_K]
        image_KD = apply(along_KD)
        alpha_K = energy_K[open_K] / (along_KD * image_KD).sum(1)
        u_KD[open_K] += alpha_K[:, None] * along_KD
        residual_KD[open_K] -= alpha_K[:, None] * image_KD
        z_KD = precondition(residual_KD[open_K])
        fresh_K = (residual_KD[open_K] * z_KD).sum(1)
        direction_KD[open_K] = z_KD + (fresh_K / energy_K[open_K])[:, None] * along_KD
        energy_K[open_K] = fresh_K
        left_K = residual_KD.norm(dim=1)
    return u_KD, _relative(left_K, norms_K)


def largest_eigenvalue(apply: Apply, start_D: Tensor, accuracy: float = 0.003, iterations: int = 100) -> float:
    """‖A v‖ after power iterations, the last five of which changed it by less than `accuracy` of itself: λ_max, or a
    little below it. One of them is not enough: a start that is nearly orthogonal to the first eigenvector rests at the
    second for a while.
    """
    vector_D, before, calm = start_D / start_D.norm(), 0.0, 0
    for _ in range(iterations):
        image_D = apply(vector_D[None])[0]
        value = float(image_D.norm())
        calm = calm + 1 if abs(value - before) < accuracy * value else 0
        if value == 0.0 or calm == _CALM:
            return value
        vector_D, before = image_D / value, value
    return before


def lanczos(
    apply: Apply, start_D: Tensor, function: Callable[[Tensor], Tensor], tolerance: float, iterations: int
) -> Tensor:
    """f(A) v, [D]: in the Krylov space of A and v, all directions kept orthogonal, until it changes by less than
    `tolerance` of itself. Saad 1992 (SIAM J. Numer. Anal. 29, 209–228), §2: exact once the space is whole.
    """
    norm = start_D.norm()
    basis = [start_D / norm] if bool(norm > 0) else []
    diagonal, beside, before_R = [], [], torch.zeros(0)
    while basis:
        image_D = apply(basis[-1][None])[0]
        diagonal.append(float(image_D @ basis[-1]))
        basis_RD = torch.stack(basis)
        for _ in range(2):  # once leaves what rounding put back
            image_D = image_D - (image_D @ basis_RD.T) @ basis_RD
        following = float(image_D.norm())
        ended = len(basis) >= min(iterations, len(start_D)) or following <= 1e-12 * max(map(abs, diagonal))
        if ended or len(basis) % 8 == 0:
            after_R = _in_basis(diagonal, beside, function)
            change = after_R - torch.nn.functional.pad(before_R, (0, len(after_R) - len(before_R)))
            if ended or float(change.norm()) <= tolerance * float(after_R.norm()):
                return norm * (after_R.to(basis_RD) @ basis_RD)
            before_R = after_R
        beside.append(following)
        basis.append(image_D / following)
    return torch.zeros_like(start_D)


def _in_basis(diagonal: list[float], beside: list[float], function: Callable[[Tensor], Tensor]) -> Tensor:
    """float64 [R]: f(T) e₁ of the tridiagonal T."""
    t_RR = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off_R = torch.tensor(beside, dtype=torch.float64)
        t_RR = t_RR + torch.diag(off_R, 1) + torch.diag(off_R, -1)
    values_R, vectors_RR = torch.linalg.eigh(t_RR)
    return vectors_RR @ (function(values_R.clamp_min(0.0)) * vectors_RR[0])


def _relative(left_K: Tensor, norms_K: Tensor) -> Tensor:
    return torch.where(norms_K > 0, left_K / norms_K, 0.0)
