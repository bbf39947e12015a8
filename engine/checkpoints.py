"""A checkpoint of an index: its weights, its curvature as read from disk, and the vectors made with them.

The same for a build and for its queries (DESIGN §2.3).
"""

from __future__ import annotations

import torch

from engine.causal.replicas import replica_states, require_unchanged
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.curvature.fit import statistics_from_arrays
from engine.features import GradientFeatures
from engine.loaded import LoadedModel, State
from engine.moments import recorded_moments
from engine.plan import Plan
from engine.store import IndexStore

ROWS_TENSORS = "rows"
REPLICAS_TENSORS = "replicas"


def index_states(model: LoadedModel, plan: Plan, store: IndexStore) -> list[State]:
    """The checkpoints an index is made of: the model's own, then the replicas'. Raises CorruptIndex."""
    own = [model.states[i] for i in plan.checkpoint_indices]
    made = replica_states(model, store.path, plan.options.replicas, plan.replica_epochs)
    if store.has_tensors(REPLICAS_TENSORS):
        require_unchanged(made, store.load_tensors(REPLICAS_TENSORS)["fingerprints"])
    return own + made


def checkpoint_features(
    model: LoadedModel, plan: Plan, store: IndexStore, number: int, state: State
) -> GradientFeatures:
    """Checkpoint `number` of an index, its curvature read from disk: the same for a build and for its queries."""
    metric = get_metric(plan.method.metric, plan.method_options)  # type: ignore[attr-defined]
    features = sketched_features(model, plan, store, number, state)
    if metric.sample != "none":
        arrays = store.load_tensors(map_name(number))
        features.row_map = metric.load_map(arrays, checkpoint_setting(model, plan, store, number, state))
    return features


def sketched_features(model: LoadedModel, plan: Plan, store: IndexStore, number: int, state: State) -> GradientFeatures:
    """As `checkpoint_features`, before the map that is fitted on such vectors."""
    metric = get_metric(plan.method.metric, plan.method_options)  # type: ignore[attr-defined]
    setting = checkpoint_setting(model, plan, store, number, state)
    return GradientFeatures(
        model,
        state,
        plan.tracked,
        metric.module_sketches(plan.tracked, setting),
        train_sketches=metric.train_sketches(plan.tracked, setting),
        unit_norm=plan.method.unit_norm,  # type: ignore[attr-defined]
        odds=plan.method.odds,  # type: ignore[attr-defined]
        damage=plan.method.damage,  # type: ignore[attr-defined]
        power=getattr(plan.method_options, "ensemble_power", 0.0),
    )


def checkpoint_setting(model: LoadedModel, plan: Plan, store: IndexStore, number: int, state: State) -> Setting:
    metric = get_metric(plan.method.metric, plan.method_options)  # type: ignore[attr-defined]
    return Setting(
        statistics_from_arrays(store.load_tensors(f"checkpoint-{number:03d}"))
        if metric.needs_covariance
        else Statistics(0, 0),
        plan.projection(number),
        damping=getattr(plan.method_options, "damping", 0.0),
        dtype=torch.promote_types(model.dtype, torch.float32),
        device=model.device,
        options=plan.method_options,
        moments=recorded_moments(store, number, model, state, plan.tracked) if metric.needs_moments else None,
    )


def map_name(number: int) -> str:
    return f"map-{number:03d}"
