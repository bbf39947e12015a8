"""One influence step: the tuned weights moved by what taking rows out of the training set does to first order.

    θ' = θ − (1/N) Σ_z H⁻¹ ∇log p(z)

in the index's metric H, damped, at the tuned weights: to first order f(q) changes by −Σ score/N of that checkpoint. An
approximation: H is the curvature of one quadratic, and training did not end at its minimum. Where H is nearly singular
the whole step leaves the region in which that holds and ruins the model, so it is shortened: t(θ' − θ) with the largest
t = 1, ½, ¼, … at which the loss on rows that stay hardly rises.

Shapes: N rows of the dataset, D numbers of a checkpoint, O/I a module's output/input width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.causal.measuring import log_probs_of
from engine.checkpoints import checkpoint_features
from engine.curvature import get_metric
from engine.dataset import Dataset
from engine.encoded import Encoded
from engine.errors import InvalidOption, MissingNeed, UnsupportedModel
from engine.features import GradientFeatures, check_finite
from engine.loaded import LoadedModel, State
from engine.methods import GradientMethod
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.solved import SolvedFeatures
from engine.types import CheckpointFn, Progress
from engine.widths import Widths

_ROOM = 0.01  # of the loss on rows that stay, which the step may cost
_SMALLEST = 2.0**-12
_GRADIENT_BYTES = 256 << 20  # of a batch's whole gradients
_REMEDY = (
    "Unlearn with an index of ekfac or kfac that has the tuned weights among its checkpoints (of another inverse "
    "curvature: not sketched), or by retraining (how: retrain)."
)


@dataclass(frozen=True)
class InfluenceStep:
    """tensors: the tuned state's, moved. coverage: share of the trained parameters that moved. norm: of θ' − θ."""

    tensors: dict[str, Tensor]
    method: str
    coverage: float
    norm: float


def influence_step(
    model: LoadedModel, dataset: Dataset, index_dir: Path, positions: Sequence[int], checkpoint: CheckpointFn
) -> InfluenceStep:
    """Raises MissingNeed where the index has no such step, UnsupportedModel for a model that is no LoRA adapter."""
    if not model.lora:
        raise UnsupportedModel("An influence step is of a LoRA adapter, and this model has none.")
    with OpenIndex(model, dataset, index_dir) as index:
        features = _features(index)
        encoder = model.encoder(index.plan.options.max_length)
        rows = [encoder.encode(dataset[position]) for position in positions]
        weights = index.weights_N[list(positions)].tolist()
        sum_D = torch.zeros(features.width, dtype=torch.float64, device=model.device)
        done = 0
        batcher = replace(index.batcher, max_rows=max(1, _GRADIENT_BYTES // (8 * features.width)))
        for batch in batcher.batches(rows, weights, positions):
            vectors = features.compute(index.capture, batch.padded)
            check_finite(vectors.self_B.cpu(), batch.padded.positions)
            sum_D += vectors.vectors_BD.double().sum(0)
            done += len(batch.slots)
            checkpoint(Progress(done, len(rows), "rows", "influence"))
        moved = _directions(features, sum_D, model)
        tensors = {name: tensor.clone() for name, tensor in model.states[-1].tensors.items()}
        for module in features.tracked:
            _move(tensors, module, moved[module.name] / len(dataset))
        norm = sum(float((tensors[n] - t).double().square().sum()) for n, t in model.states[-1].tensors.items())
        return InfluenceStep(tensors, index.plan.method.name, model.coverage(features.tracked).share, norm**0.5)


def shortened(model: LoadedModel, step: InfluenceStep, rows: Sequence[Encoded]) -> tuple[dict[str, Tensor], float]:
    """(the tuned weights moved by t times the step, t): the largest t that raises the mean loss a token on `rows` by no
    more than a hundredth; the smallest tried where none does."""
    tuned = model.states[-1]
    most = (1 + _ROOM) * mean_loss(model, tuned, rows)
    scale, tensors = 1.0, step.tensors
    while scale > _SMALLEST and not mean_loss(model, replace(tuned, tensors=tensors), rows) <= most:
        scale /= 2
        tensors = {name: own + scale * (step.tensors[name] - own) for name, own in tuned.tensors.items()}
    model.use(tuned)
    return tensors, scale


def mean_loss(model: LoadedModel, state: State, rows: Sequence[Encoded]) -> float:
    """Nats a token."""
    model.use(state)
    return -float(log_probs_of(model, rows).sum()) / sum(row.target_count for row in rows)


def check_influence(index: OpenIndex) -> None:
    """Whether an index has such a step. Raises MissingNeed."""
    _features(index)


def _features(index: OpenIndex) -> GradientFeatures:
    """Of the tuned weights: whole gradients in a whole inverse curvature (exponent 1).

    Where the metric comes from stored statistics alone (kfac, ekfac) it is made anew from them, however the index
    itself is sketched; else the index's own vectors must be such.
    """
    plan, method, tuned = index.plan, index.plan.method, len(index.model.states) - 1
    if tuned not in plan.checkpoint_indices:
        raise MissingNeed("The tuned weights are not among the index's checkpoints.", remedy=_REMEDY, pointer="/how")
    number = plan.checkpoint_indices.index(tuned)
    if not isinstance(method, GradientMethod):
        raise _no_unit(method.name)
    metric, wanted = get_metric(method.metric, plan.method_options), _inverse(plan.method_options)
    if (
        metric.needs_covariance
        and metric.sample == "none"
        and not metric.needs_moments
        and method.in_units_of_f(wanted)
    ):
        whole = replace(plan, method_options=wanted, widths=Widths(None, 0))
        return checkpoint_features(index.model, whole, index.store, number, index.model.states[tuned])
    if method.unit_norm or not method.in_units_of_f(plan.method_options):
        raise _no_unit(method.name)
    if plan.sketched:
        raise MissingNeed("The index is sketched, and a step needs whole gradients.", remedy=_REMEDY, pointer="/how")
    return index.features[number]


def _inverse(options: Any) -> Any:
    """The method's options as H⁻¹ has them."""
    known = {"exponent": 1.0, "ensemble_power": 0.0}
    return replace(options, **{name: value for name, value in known.items() if hasattr(options, name)})


def _no_unit(method: str) -> MissingNeed:
    detail = f"Scores of {method} are in no unit of f in this index: they tell no step."
    return MissingNeed(detail, remedy=_REMEDY, pointer="/how")


def _directions(features: GradientFeatures, sum_D: Tensor, model: LoadedModel) -> dict[str, Tensor]:
    """Module → Σ_z H⁻¹ ∇log p(z) as [O, I]: what a query's gradient is multiplied by to give the rows' scores."""
    mapped_1D = sum_D[None] if features.row_map is None else features.row_map.apply(sum_D[None])
    mapped_1D = mapped_1D.to(torch.promote_types(model.dtype, torch.float32))
    sizes = [features.sketches[m.name].shape for m in features.tracked]
    parts = mapped_1D.split([rows * columns for rows, columns in sizes], dim=1)
    phi = {
        module.name: part.reshape(1, *size) for module, part, size in zip(features.tracked, parts, sizes, strict=True)
    }
    if isinstance(features, SolvedFeatures):
        return {name: w_1OI[0] for name, w_1OI in features.pull_back(phi).items()}
    return {name: features.sketches[name].adjoint(phi_1PR)[0] for name, phi_1PR in phi.items()}


def _move(tensors: dict[str, Tensor], module: TrackedModule, by_OI: Tensor) -> None:
    """Take the step's part of one module off its weight and bias; the inverse of TrackedModule.lay_out."""
    weight_OI = by_OI[:, :-1] if module.bias else by_OI
    weight = weight_OI.T if module.kind == "conv1d" else weight_OI
    own = tensors.get(f"{module.path}.weight")
    if own is None:
        raise InvalidOption(f"{module.name} is tracked and is no part of the adapter.", pointer="/index")
    own -= weight.reshape(own.shape).to(own.dtype)
    if module.bias:
        tensors[f"{module.path}.bias"] -= by_OI[:, -1].to(own.dtype)
