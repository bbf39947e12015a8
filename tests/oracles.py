"""Naive counterparts of the engine's mathematics: autograd with batch size one, explicit matrices, for loops.

Shapes: T positions, I/O a module's input/output width, D all tracked numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.model import LoadedModel
from engine.modules import TrackedModule
from engine.text import Encoded


def log_prob(model: LoadedModel, encoded: Encoded, labels: Sequence[int] | None = None) -> Tensor:
    """Σ over targets of log p(token), of one unpadded sequence, differentiable in every parameter."""
    ids_1T = torch.tensor([encoded.ids])
    log_probs_TV = F.log_softmax(model.module(input_ids=ids_1T, use_cache=False).logits[0], dim=-1)
    tokens = encoded.ids if labels is None else labels
    terms = [log_probs_TV[t - 1, tokens[t]] for t in range(1, len(encoded.ids)) if encoded.targets[t]]
    return torch.stack(terms).sum()


def gradients(model: LoadedModel, tracked: Sequence[TrackedModule], scalar: Tensor) -> dict[str, Tensor]:
    """Module → ∂scalar/∂W as [O, I], a trained bias as the last column. `scalar` was made by `with_grad`."""
    parameters = dict(model.module.named_parameters())
    wanted = [parameters[f"{m.path}.weight"] for m in tracked]
    wanted += [parameters[f"{m.path}.bias"] for m in tracked if m.bias]
    values = torch.autograd.grad(scalar, wanted)
    biases = iter(values[len(tracked) :])
    result = {}
    for module, value in zip(tracked, values, strict=False):
        if module.kind == "magnitude":
            result[module.name] = value.unsqueeze(1)
            continue
        g_OI = value.T if module.kind == "conv1d" else value
        result[module.name] = torch.cat([g_OI, next(biases).unsqueeze(1)], dim=1) if module.bias else g_OI
    return result


def example_gradients(
    model: LoadedModel, tracked: Sequence[TrackedModule], encoded: Encoded, labels: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """Plain autograd through every parameter, one sequence at a time."""
    for parameter in model.module.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # a quantised base has integers
    try:
        return gradients(model, tracked, log_prob(model, encoded, labels))
    finally:
        model.module.requires_grad_(False)


def flat(parts: dict[str, Tensor], tracked: Sequence[TrackedModule]) -> Tensor:
    return torch.cat([parts[m.name].flatten() for m in tracked])


def inverse_root(matrix: Tensor) -> Tensor:
    """M^-½ of a positive definite matrix, by its eigendecomposition."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**-0.5) @ vectors.T
