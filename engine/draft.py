"""An index's manifest before anything is measured, and what is said of the index once it is whole."""

from __future__ import annotations

from dataclasses import asdict

import torch

from engine.causal.replicas import replica_labels
from engine.dataset import Dataset
from engine.loaded import LoadedModel
from engine.manifest import Block, Compression, Manifest, lay_out
from engine.plan import Plan
from engine.store import IndexStore
from engine.types import Coverage, IndexInfo, Untracked


def draft_manifest(plan: Plan, model: LoadedModel, dataset: Dataset, *, token_budget: int | None = None) -> Manifest:
    """The manifest as it stands before anything is measured: identity, layout, coverage.

    token_budget: of the batches, where memory is short for what the options allow.
    """
    own = tuple(model.states[i].label for i in plan.checkpoint_indices)
    labels = own + replica_labels(plan.options.replicas, plan.replica_epochs)
    return Manifest(
        method=plan.method.name,
        fingerprints=index_fingerprints(plan, model, dataset),
        blocks=_blocks(plan),
        rows=plan.rows,
        checkpoints=labels,
        dtype=plan.options.dtype,
        plan={
            "shard_rows": plan.shard_rows,
            "token_budget": token_budget or plan.options.token_budget,
            "max_batch_rows": plan.max_batch_rows,
            "threads": torch.get_num_threads(),
            "kernels": f"torch {torch.__version__} {model.device.type}",
        },
        options=plan.as_options(),
        serves=plan.serves,
        coverage=asdict(model.coverage(plan.tracked)),
        compression=_compression(plan),
    )


def index_fingerprints(plan: Plan, model: LoadedModel, dataset: Dataset) -> dict[str, str]:
    return model.fingerprints() | {"dataset": dataset.sha256, "projection": plan.fingerprint()}


def _blocks(plan: Plan) -> tuple[Block, ...]:
    if plan.tracked:
        shapes = [(m.name, *plan.projection(0).shape(m)) for m in plan.tracked]
        return lay_out(shapes, plan.vectors)
    # A row method stores nothing: one zero a row keeps every index of one form.
    return lay_out([("hidden_state", 1, plan.dims or 1)], 1)


def _compression(plan: Plan) -> Compression | None:
    if plan.widths.learned is None:
        return None
    return Compression(plan.widths.learned, plan.widths.sketch_rows or 0)


def index_info(store: IndexStore, manifest: Manifest, *, sketched: bool) -> IndexInfo:
    coverage = dict(manifest.coverage)
    untracked = tuple(Untracked(**entry) for entry in coverage.pop("untracked"))
    return IndexInfo(
        method=manifest.method,
        serves=manifest.serves,
        rows=manifest.rows,
        dims=manifest.dims,
        bytes=store.bytes(),
        sketched=sketched,
        coverage=Coverage(**coverage, untracked=untracked),
        fingerprints=manifest.fingerprints,
        revision=manifest.revision,
        checkpoints=len(manifest.checkpoints),
        options=manifest.options,
        warnings=manifest.warnings,
        timings_s=manifest.timings_s,
    )
