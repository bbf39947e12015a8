"""One optimizer step, backwards, and the states that are kept of a run. What is computed: engine/causal/replay.py.

Shapes: Q queries, P numbers of the adapter, S kept states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.causal.loop import TrainingLoop
from engine.causal.steps import learning_rate

_PARTS = ("theta", "first", "second")
_NORM_ROUNDING = 1e-6  # torch.nn.utils.clip_grad_norm_'s


@dataclass
class State:
    """Before a step, or at the end. All [P], on the model's device."""

    theta_P: Tensor
    first_P: Tensor
    second_P: Tensor


@dataclass(frozen=True)
class Recording:
    """A run that was trained again: the states before every `stride`-th step, and at the end."""

    kept: tuple[State, ...]
    end: State
    stride: int
    seconds: float = 0.0

    def to_arrays(self) -> dict[str, np.ndarray]:
        """theta, first and second [S + 1, P], the end last; stride."""
        parts = {name: torch.stack([getattr(s, f"{name}_P") for s in (*self.kept, self.end)]) for name in _PARTS}
        return {name: part.cpu().numpy() for name, part in parts.items()} | {"stride": np.array([self.stride])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray], device: torch.device) -> Recording:
        parts = [torch.from_numpy(arrays[name]).to(device).unbind() for name in _PARTS]
        *kept, end = (State(*each) for each in zip(*parts, strict=True))
        return cls(tuple(kept), end, int(arrays["stride"][0]))


@dataclass
class Adjoint:
    """∂f/∂(θ, m, v), each [Q, P]."""

    theta_QP: Tensor
    first_QP: Tensor
    second_QP: Tensor


@torch.no_grad()
def through_adamw(loop: TrainingLoop, number: int, state: State, grad_P: Tensor, adjoint: Adjoint) -> Tensor:
    """[Q, P]: the adjoint of g. `adjoint`, of after the step, becomes that of before it but for what goes through g."""
    training = loop.training
    rate = learning_rate(number, loop.total, training)
    (beta_1, beta_2), count = training.betas, number + 1
    correction_1, correction_2 = 1 - beta_1**count, 1 - beta_2**count
    norm = torch.linalg.vector_norm(grad_P)
    limit = math.inf if training.max_grad_norm is None else training.max_grad_norm
    clips = norm + _NORM_ROUNDING > limit
    factor = torch.where(clips, limit / (norm + _NORM_ROUNDING), torch.ones_like(norm)) if math.isfinite(limit) else 1.0
    clipped_P = factor * grad_P
    first_P = beta_1 * state.first_P + (1 - beta_1) * clipped_P
    second_P = beta_2 * state.second_P + (1 - beta_2) * clipped_P.square()
    root_P = (second_P / correction_2).sqrt()
    below_P = root_P + training.epsilon
    step_QP = -rate * adjoint.theta_QP / (correction_1 * below_P)
    slope_P = torch.where(root_P > 0, 1 / (2 * correction_2 * torch.where(root_P > 0, root_P, 1.0)), 0.0)
    adjoint.first_QP += step_QP
    adjoint.second_QP -= step_QP * (first_P / below_P * slope_P)
    towards_QP = (1 - beta_1) * adjoint.first_QP + 2 * (1 - beta_2) * clipped_P * adjoint.second_QP
    adjoint.theta_QP *= 1 - rate * training.weight_decay
    adjoint.first_QP *= beta_1
    adjoint.second_QP *= beta_2
    if not math.isfinite(limit):
        return towards_QP
    # d(c g) = c dg − M/(‖g‖+1e-6)² · g ⟨g, dg⟩/‖g‖ where it clips
    shrink = limit / (norm + _NORM_ROUNDING).square() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
    bent_QP = factor * towards_QP - shrink * (towards_QP @ grad_P).unsqueeze(1) * grad_P
    return torch.where(clips, bent_QP, towards_QP)
