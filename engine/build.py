"""build_index(): from rows to shards on disk, resumable at the first missing shard.

Shapes: N rows of a shard, C checkpoints, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.config import IndexConfig
from engine.curvature import get_metric
from engine.curvature.base import Setting, Statistics
from engine.curvature.fit import (
    LabelDraws,
    calibration_rows,
    fit_statistics,
    statistics_from_arrays,
    statistics_to_arrays,
)
from engine.dataset import Dataset
from engine.features import GradientFeatures, RepresentationFeatures, check_finite
from engine.manifest import Block, Manifest, block_scale, lay_out
from engine.methods import GradientMethod, RepresentationMethod
from engine.model import LoadedModel
from engine.plan import Plan, make_plan
from engine.rows import Batch, Batcher, encode_rows
from engine.store import IndexStore
from engine.types import CheckpointFn, Coverage, IndexInfo, Progress, Untracked

ROWS_TENSORS = "rows"
_SCALE_ROWS = 64  # rows that fix each block's storage scale; float16 leaves 255 times their maximum as headroom


def build_index(
    model: LoadedModel, dataset: Dataset, config: IndexConfig, path: Path, checkpoint: CheckpointFn
) -> IndexInfo:
    """Build, or go on building, the index of `dataset` in the directory `path`.

    `checkpoint` is called between batches and may raise Cancelled: every finished shard is kept.
    Raises InputError (method, options, a row without target), NonFiniteGradient, FingerprintMismatch
    (another build lies there), StorageFull.
    """
    build = _Build(model, dataset, config, path, checkpoint)
    with build.timed("tokenize"):
        build.encode()
    with build.timed("curvature"):
        build.calibrate()
    with build.timed("sketch"):
        build.write_shards()
    return build.finish()


@dataclass
class _Build:
    """The state of one build, in the order in which it comes to be."""

    model: LoadedModel
    dataset: Dataset
    config: IndexConfig
    path: Path
    checkpoint: CheckpointFn
    timings: dict[str, float] = field(default_factory=dict)
    done: int = 0

    def __post_init__(self) -> None:
        self.plan = make_plan(self.model, len(self.dataset), self.config)
        self.batcher = Batcher(self.model, self.plan.options.token_budget, self.plan.max_batch_rows)
        self.features: list[GradientFeatures] = []

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[phase] = round(time.perf_counter() - started, 3)

    # --- steps ---

    def encode(self) -> None:
        self.rows = encode_rows(
            self.model,
            self.dataset,
            self.plan.options.max_length,
            lambda done: self.checkpoint(Progress(done, len(self.dataset), "rows", "tokenize")),
        )
        self.store = IndexStore.open_or_create(self.path, draft_manifest(self.plan, self.model, self.dataset))
        if not self.store.has_tensors(ROWS_TENSORS):
            self.store.save_tensors(ROWS_TENSORS, {"weights": np.array(self.rows.weights)})

    def calibrate(self) -> None:
        """Curvature per checkpoint, then each block's storage scale; both are read back from disk on resume."""
        if not isinstance(self.plan.method, GradientMethod):
            return
        with GradientCapture(self.model, self.plan.tracked) as capture:
            for number in range(len(self.plan.checkpoint_indices)):
                self.features.append(self._fit(capture, number))
            if not self.store.manifest.shards:
                self.store.set_scales(self._scales(capture))

    def write_shards(self) -> None:
        self.done = self._total() - sum(stop - start for _, start, stop in self.store.missing_shards()) * self._passes
        with GradientCapture(self.model, self.plan.tracked) as capture:
            for number, start, stop in self.store.missing_shards():
                vectors_ND, self_NC = self._shard(capture, range(start, stop))
                lengths_N = np.array(self.rows.lengths[start:stop], np.int32)
                self.store.write_shard(number, vectors_ND, self_NC, lengths_N)

    def finish(self) -> IndexInfo:
        manifest = self.store.finish(timings_s=self.store.manifest.timings_s | self.timings, warnings=self._warnings())
        self._tick(self._total() - self.done, "finish")
        return index_info(self.store, manifest, sketched=self.plan.sketched)

    # --- how they are done ---

    def _fit(self, capture: GradientCapture, number: int) -> GradientFeatures:
        name = f"checkpoint-{number:03d}"
        state = self.plan.checkpoint_indices[number]
        metric = get_metric(self.plan.method.metric)  # type: ignore[attr-defined]
        if metric.needs_covariance and not self.store.has_tensors(name):
            statistics = fit_statistics(
                capture,
                lambda: self._calibration_batches(state),
                metric,
                LabelDraws(self.plan.options.seed, number, self.rows.keys),
            )
            self.store.save_tensors(name, statistics_to_arrays(statistics, _statistics_dtype(self.model)))
        return checkpoint_features(self.model, self.plan, self.store, number)

    def _calibration_batches(self, state: int) -> Iterator[PaddedBatch]:
        # √w: see engine/curvature/fit.py
        chosen = calibration_rows(self.rows.keys, self.plan.curvature_rows)
        weights = [self.rows.weights[i] ** 0.5 for i in chosen]
        for batch in self.batcher.batches([self.rows.rows[i] for i in chosen], weights, chosen):
            self._tick(len(batch.slots), "curvature")
            self.model.use(state)  # after the tick: a query answered there may have used other weights
            yield batch.padded

    def _scales(self, capture: GradientCapture) -> list[float]:
        chosen = calibration_rows(self.rows.keys, _SCALE_ROWS)
        largest: list[np.ndarray] = []
        for features in self.features:
            parts = [
                features.finish(features.compute(capture, b.padded))[0].abs().amax(0) for b in self._batches(chosen)
            ]
            largest.append(torch.stack(parts).amax(0).cpu().numpy())
        largest_D = np.concatenate(largest)
        return [block_scale(float(largest_D[b.offset : b.stop].max())) for b in self.store.manifest.blocks]

    def _shard(self, capture: GradientCapture, positions: range) -> tuple[np.ndarray, np.ndarray]:
        vectors_ND = np.zeros((len(positions), self.store.manifest.dims), np.float32)
        self_NC = np.zeros((len(positions), len(self.store.manifest.checkpoints)), np.float32)
        offset = 0
        for column, features in enumerate(self.features):
            for batch in self._batches(list(positions)):
                vectors_BD, self_B = features.finish(features.compute(capture, batch.padded))
                rows = list(batch.slots)
                vectors_ND[rows, offset : offset + features.width] = vectors_BD.cpu().numpy()
                self_NC[rows, column] = self_B.cpu().numpy()
                check_finite(self_B, batch.padded.positions)
                self._tick(len(rows), "sketch")
            offset += features.width
        if isinstance(self.plan.method, RepresentationMethod):
            self._representations(list(positions), vectors_ND, self_NC)
        return vectors_ND, self_NC

    def _representations(self, positions: list[int], vectors_ND: np.ndarray, self_NC: np.ndarray) -> None:
        features = RepresentationFeatures(self.model, self.plan.method_options)
        for batch in self._batches(positions):
            vectors_ND[list(batch.slots)] = features.compute(batch.padded).cpu().numpy()
            self._tick(len(batch.slots), "sketch")
        self_NC[:, 0] = np.square(vectors_ND).sum(1)

    def _batches(self, positions: list[int]) -> Iterator[Batch]:
        rows = [self.rows.rows[i] for i in positions]
        return self.batcher.batches(rows, [self.rows.weights[i] for i in positions], positions)

    # --- progress and words ---

    @property
    def _passes(self) -> int:
        return max(1, len(self.plan.checkpoint_indices) if self.plan.tracked else 1)

    def _total(self) -> int:
        """In row passes, so that one number serves all phases and an ETA means something."""
        metric = get_metric(self.plan.method.metric) if isinstance(self.plan.method, GradientMethod) else None
        calibration = (metric.needs_covariance + metric.needs_eigen) * self.plan.curvature_rows if metric else 0
        return self._passes * (calibration + self.plan.rows)

    def _tick(self, rows: int, phase: str) -> None:
        self.done += rows
        self.checkpoint(Progress(min(self.done, self._total()), self._total(), "rows", phase))

    def _warnings(self) -> tuple[str, ...]:
        warnings = list(self.model.warnings)
        if self.rows.truncated:
            warnings.append(f"{self.rows.truncated} rows were longer than the limit and were cut on the right")
        if self.rows.boundary_mismatches:
            warnings.append(
                f"in {self.rows.boundary_mismatches} rows prompt and completion merge into one token at their border: "
                "training masked by length there, and so do the gradients"
            )
        coverage = self.model.coverage(self.plan.tracked)
        if self.plan.tracked and coverage.share < 1:
            warnings.append(
                f"{coverage.share:.1%} of the trained parameters are attributed; "
                f"{len(coverage.untracked)} modules are not"
            )
        silent = [
            self.model.states[features.state].label
            for features in self.features
            if any(sketch.is_zero for sketch in features.sketches.values())
        ]
        if silent:
            warnings.append(
                f"checkpoints {', '.join(silent)} hold modules without any gradient (an untrained lora_B = 0, say)"
            )
        return tuple(warnings + [f"{file} was damaged and made again" for file in self.store.dropped])


def draft_manifest(plan: Plan, model: LoadedModel, dataset: Dataset) -> Manifest:
    """The manifest as it stands before anything is measured: identity, layout, coverage."""
    labels = tuple(model.states[i].label for i in plan.checkpoint_indices)
    return Manifest(
        method=plan.method.name,
        fingerprints=index_fingerprints(plan, model, dataset),
        blocks=_blocks(plan),
        rows=plan.rows,
        checkpoints=labels,
        dtype=plan.options.dtype,
        plan={
            "shard_rows": plan.shard_rows,
            "token_budget": plan.options.token_budget,
            "max_batch_rows": plan.max_batch_rows,
            "threads": torch.get_num_threads(),
            "kernels": f"torch {torch.__version__} {model.device.type}",
        },
        options=plan.as_options(),
        serves=plan.serves,
        coverage=asdict(model.coverage(plan.tracked)),
    )


def index_fingerprints(plan: Plan, model: LoadedModel, dataset: Dataset) -> dict[str, str]:
    return model.fingerprints() | {"dataset": dataset.sha256, "projection": plan.fingerprint()}


def _blocks(plan: Plan) -> tuple[Block, ...]:
    if plan.tracked:
        shapes = [(m.name, *plan.projection(0).shape(m)) for m in plan.tracked]
        return lay_out(shapes, len(plan.checkpoint_indices))
    # A row method stores nothing: one zero a row keeps every index of one form.
    return lay_out([("hidden_state", 1, plan.dims or 1)], 1)


def checkpoint_features(model: LoadedModel, plan: Plan, store: IndexStore, number: int) -> GradientFeatures:
    """Checkpoint `number` of an index, its curvature read from disk: the same for a build and for its queries."""
    metric = get_metric(plan.method.metric)  # type: ignore[attr-defined]
    name = f"checkpoint-{number:03d}"
    statistics = Statistics(0, 0)
    if metric.needs_covariance:
        statistics = statistics_from_arrays(store.load_tensors(name))
    setting = Setting(
        statistics,
        plan.projection(number),
        damping=getattr(plan.method_options, "damping", 0.0),
        dtype=torch.promote_types(model.dtype, torch.float32),
        device=model.device,
    )
    sketches = metric.module_sketches(plan.tracked, setting)
    unit_norm = plan.method.unit_norm  # type: ignore[attr-defined]
    return GradientFeatures(model, plan.checkpoint_indices[number], plan.tracked, sketches, unit_norm=unit_norm)


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


def _statistics_dtype(model: LoadedModel) -> torch.dtype:
    """float64 models are for tests of the mathematics and keep it; anything else is stored in float32."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32
