"""The Gauss-Newton matrix itself, from explicit Jacobians, one target at a time.

Shapes: V vocabulary, D the numbers of all tracked modules' gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.model import LoadedModel
from engine.modules import TrackedModule
from engine.text import Encoded


def gauss_newton(
    model: LoadedModel, tracked: Sequence[TrackedModule], rows: Sequence[Encoded], weights: Sequence[float]
) -> Tensor:
    """[D, D]: (1/rows) Σ w Σ_t Jᵀ (diag p − ppᵀ) J, on the weights now loaded."""
    size = sum(module.parameters for module in tracked)
    total_DD = torch.zeros(size, size, dtype=torch.float64)
    model.module.requires_grad_(True)
    try:
        for row, weight in zip(rows, weights, strict=True):
            for jacobian_VD, p_V in jacobians(model, tracked, row):
                middle_VV = torch.diag(p_V) - torch.outer(p_V, p_V)
                total_DD += weight * jacobian_VD.T @ middle_VV @ jacobian_VD
    finally:
        model.module.requires_grad_(False)
    return total_DD / len(rows)


def jacobians(model: LoadedModel, tracked: Sequence[TrackedModule], row: Encoded) -> list[tuple[Tensor, Tensor]]:
    """(∂ logits/∂ weights [V, D], p [V]) of every target of an unpadded row."""
    named = dict(model.module.named_parameters())
    names = [f"{m.path}.{kind}" for m in tracked for kind in (("weight", "bias") if m.bias else ("weight",))]
    found = []
    with sdpa_kernel(SDPBackend.MATH):  # the only one that can be differentiated for many outputs at once
        logits_TV = model.module(input_ids=torch.tensor([row.ids]), use_cache=False).logits[0]
        for t in (t for t, is_target in enumerate(row.targets) if is_target):
            eye_VV = torch.eye(logits_TV.shape[1], dtype=torch.float64)
            wanted = [named[name] for name in names]
            parts = torch.autograd.grad(logits_TV[t - 1], wanted, eye_VV, retain_graph=True, is_grads_batched=True)
            by_name = dict(zip(names, parts, strict=True))
            found.append((_flat(by_name, tracked), logits_TV[t - 1].detach().softmax(-1)))
    return found


def _flat(parts: dict[str, Tensor], tracked: Sequence[TrackedModule]) -> Tensor:
    columns = []
    for module in tracked:
        weight = parts[f"{module.path}.weight"]
        if module.kind == "conv1d":
            weight = weight.transpose(1, 2)
        weight = weight.unsqueeze(2) if module.kind == "magnitude" else weight
        bias = [parts[f"{module.path}.bias"].unsqueeze(2)] if module.bias else []
        columns.append(torch.cat([weight, *bias], 2).flatten(1))
    return torch.cat(columns, 1)


def dense(q_out_OO: Tensor, q_in_II: Tensor, moments_OI: Tensor) -> Tensor:
    """[O·I, O·I] float64 of (Q_S ⊗ Q_A) diag(Λ) (Q_S ⊗ Q_A)ᵀ, rows and columns in [O, I] order."""
    basis = torch.kron(q_out_OO.double(), q_in_II.double())
    return basis @ torch.diag(moments_OI.double().flatten()) @ basis.T
