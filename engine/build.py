"""build_index(): from rows to shards on disk, resumable at the first missing shard.

Shapes: N rows of a shard, C checkpoints, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from engine.batching import PaddedBatch
from engine.capture import GradientCapture
from engine.causal.replicas import fingerprints_C16, replica_training, train_replica
from engine.checkpoints import (
    REPLICAS_TENSORS,
    ROWS_TENSORS,
    checkpoint_features,
    index_states,
    map_name,
    sketched_features,
)
from engine.compression import LearnedBasis, fit_basis
from engine.config import IndexConfig
from engine.coverage import require_coverage
from engine.curvature import get_metric
from engine.curvature.base import Metric
from engine.curvature.fit import calibration_rows, fit_statistics, statistics_to_arrays
from engine.curvature.labels import LabelDraws
from engine.dataset import Dataset
from engine.draft import draft_manifest, index_info
from engine.ensemble import record_schedule
from engine.features import GradientFeatures
from engine.footprint import fitting_budget, recorded_budget
from engine.forward_rows import row_passes
from engine.ivf_build import NO_LISTS, lists_of
from engine.loaded import LoadedModel, State
from engine.manifest import block_scale
from engine.methods import GradientMethod, ReplayMethod, RepresentationMethod
from engine.plan import make_plan
from engine.replayed import save_run
from engine.representation import save_mean
from engine.rows import Batch, Batcher, encode_rows
from engine.store import BASIS_TENSORS, IndexStore
from engine.task_queries import with_queries
from engine.types import CheckpointFn, IndexInfo, Progress
from engine.writer import ShardRows, ShardWriter

# Rows that fix each block's storage scale where there are several shards; float16 leaves 255 times their maximum as
# headroom.
_SCALE_ROWS = 64


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
    with build.timed("replicas"):
        build.train_replicas()
    with build.timed("curvature"):
        build.calibrate()
    with build.timed("sketch"):
        build.write_shards()
    with build.timed("lists"):
        build.make_lists()
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
        require_coverage(self.model, self.plan)
        self.features: list[GradientFeatures] = []
        self.basis: LearnedBasis | None = None
        self.search = NO_LISTS
        self.writer: ShardWriter | None = None

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
            alone=getattr(self.plan.method, "alone", False),
        )
        mean_length = sum(self.rows.lengths) / len(self.rows.rows)
        budget = recorded_budget(self.path) or fitting_budget(self.model, self.plan, mean_length)
        self.batcher = Batcher(self.model, budget, self.plan.max_batch_rows)
        draft = draft_manifest(self.plan, self.model, self.dataset, token_budget=budget)
        self.store = IndexStore.open_or_create(self.path, draft)
        if not self.store.has_tensors(ROWS_TENSORS):
            self.store.save_tensors(ROWS_TENSORS, {"weights": np.array(self.rows.weights)})

    def train_replicas(self) -> None:
        for number in range(1, self.plan.options.replicas + 1):
            training = replica_training(self.model, self.plan.rows)
            before, rows = self.done, training.epochs * self.plan.rows

            def tick(step: Progress, before: int = before, rows: int = rows) -> None:
                self._tick(before + round(rows * step.done / step.total) - self.done, "replicas")

            train_replica(self.model, self.dataset, training, number, self.path, tick)
            self.done = before + rows
        self.states = index_states(self.model, self.plan, self.store)
        record_schedule(self.store, self.model, self.states, self.plan)
        if self.plan.options.replicas and not self.store.has_tensors(REPLICAS_TENSORS):
            made = self.states[len(self.plan.checkpoint_indices) :]
            self.store.save_tensors(REPLICAS_TENSORS, {"fingerprints": fingerprints_C16(made)})

    def calibrate(self) -> None:
        """Curvature per checkpoint, a learned sketch's basis, each block's scale; all are read back on resume."""
        if isinstance(self.plan.method, RepresentationMethod):
            save_mean(self.model, self.plan.method, self.plan.method_options, self.store, self._mean_batches)
        if isinstance(self.plan.method, ReplayMethod):
            save_run(self.store, self.model, self.dataset, self.plan.method_options, self.checkpoint)
        if not isinstance(self.plan.method, GradientMethod):
            return
        with GradientCapture(self.model, self.plan.tracked) as capture:
            for number in range(len(self.states)):
                self.features.append(self._fit(capture, number))
            self.basis = self._fit_basis(capture)
            # An index of one shard has all its rows in memory before any is stored: that one needs no sample.
            if not self.store.manifest.shards and self.store.manifest.shard_count > 1:
                self.store.set_scales(self._scales_of(self._scale_sample(capture)))

    def write_shards(self) -> None:
        self.done = self._total() - sum(stop - start for _, start, stop in self.store.missing_shards()) * self._passes
        missing = self.store.missing_shards()  # the writer changes the store from now on
        with GradientCapture(self.model, self.plan.tracked) as capture, self._writing() as writer:
            for number, start, stop in missing:
                lengths_N = np.array(self.rows.lengths[start:stop], np.int32)
                shard = self._shard(capture, range(start, stop))
                if self.features and self.store.manifest.shard_count == 1:
                    self.store.set_scales(self._scales_of(shard.vectors_NW))
                writer.write(number, shard, lengths_N)

    def make_lists(self) -> None:
        self.search = lists_of(self.store, self.plan, lambda: self._tick(0, "lists"))

    def finish(self) -> IndexInfo:
        manifest = self.store.finish(
            timings_s=self.store.manifest.timings_s | self.timings,
            warnings=(*self._warnings(), *self.search.warnings),
            search=self.search.record,
        )
        self._tick(self._total() - self.done, "finish")
        return index_info(self.store, manifest, sketched=self.plan.sketched)

    # --- how they are done ---

    def _fit(self, capture: GradientCapture, number: int) -> GradientFeatures:
        name = f"checkpoint-{number:03d}"
        state = self.states[number]
        metric = get_metric(self.plan.method.metric, self.plan.method_options)  # type: ignore[attr-defined]
        if metric.needs_covariance and not self.store.has_tensors(name):
            statistics = fit_statistics(
                capture,
                lambda: self._calibration_batches(state),
                metric,
                LabelDraws(self.plan.options.seed, number, self.rows.keys),
                between=lambda: self._tick(0, "curvature"),
            )
            self.store.save_tensors(name, statistics_to_arrays(statistics, _statistics_dtype(self.model)))
        if metric.sample != "none" and not self.store.has_tensors(map_name(number)):
            row_map = metric.fit_map(*self._sample(capture, number, metric), self.plan.method_options)
            self.store.save_tensors(map_name(number), row_map.to_arrays())
        return checkpoint_features(self.model, self.plan, self.store, number, state)

    def _sample(self, capture: GradientCapture, number: int, metric: Metric) -> tuple[torch.Tensor, list[slice]]:
        """The calibration rows' vectors [S, D] before any map, and each module's columns."""
        features = sketched_features(self.model, self.plan, self.store, number, self.states[number])
        draws = LabelDraws(self.plan.options.seed, number, self.rows.keys) if metric.sample == "drawn" else None
        chosen = calibration_rows(self.rows.keys, self.plan.curvature_rows)
        sample_SD = torch.zeros(len(chosen), features.width, dtype=torch.promote_types(self.model.dtype, torch.float32))
        # √w with drawn labels (see engine/curvature/fit.py); w itself where the gradients are the rows' own
        power = 1.0 if draws is None else 0.5
        for batch in self._chosen_batches(chosen, power):
            self._tick(len(batch.slots), "curvature")
            labels = None if draws is None else draws.sampler(batch.padded)
            sample_SD[list(batch.slots)] = features.compute(capture, batch.padded, labels).vectors_BD.cpu()
        columns = [slice(b.offset, b.stop) for b in self.store.manifest.blocks if b.checkpoint == 0]
        return with_queries(sample_SD, columns, features, capture, self.batcher, self.plan), columns

    def _chosen_batches(self, chosen: list[int], power: float) -> Iterator[Batch]:
        weights = [self.rows.weights[i] ** power for i in chosen]
        return self.batcher.batches([self.rows.rows[i] for i in chosen], weights, chosen)

    def _calibration_batches(self, state: State) -> Iterator[PaddedBatch]:
        # √w: see engine/curvature/fit.py
        chosen = calibration_rows(self.rows.keys, self.plan.curvature_rows)
        for batch in self._chosen_batches(chosen, 0.5):
            self._tick(len(batch.slots), "curvature")
            self.model.use(state)  # after the tick: a query answered there may have used other weights
            yield batch.padded

    def _fit_basis(self, capture: GradientCapture) -> LearnedBasis | None:
        widths = self.plan.widths
        if widths.learned is None:
            return None
        if not self.store.has_tensors(BASIS_TENSORS):
            chosen = calibration_rows(self.rows.keys, widths.sketch_rows or 0)
            sample_SD = torch.zeros(len(chosen), widths.dims)
            for rows, vectors_BW, offset in self._finished(capture, chosen):
                sample_SD[rows, offset : offset + vectors_BW.shape[1]] = vectors_BW.to("cpu", torch.float32)
                self._tick(len(rows), "curvature")
            basis = fit_basis(sample_SD, widths.learned, self.plan.options.seed)
            self.store.save_tensors(BASIS_TENSORS, basis.to_arrays())
        return self.store.basis

    def _finished(self, capture: GradientCapture, chosen: list[int]) -> Iterator[tuple[list[int], torch.Tensor, int]]:
        """(places in `chosen`, a checkpoint's vectors of these rows, its first column), checkpoint by checkpoint."""
        offset = 0
        for features in self.features:
            for batch in self._batches(chosen):
                yield list(batch.slots), features.finish(features.compute(capture, batch.padded))[0], offset
            offset += features.width

    def _mean_batches(self) -> Iterator[PaddedBatch]:
        for batch in self._chosen_batches(calibration_rows(self.rows.keys, self.plan.curvature_rows), 1.0):
            self._tick(0, "curvature")
            yield batch.padded

    def _scale_sample(self, capture: GradientCapture) -> torch.Tensor:
        chosen = calibration_rows(self.rows.keys, _SCALE_ROWS)
        vectors_NW = torch.zeros(len(chosen), self.store.manifest.width, device=self.model.device)
        for rows, vectors_BW, offset in self._finished(capture, chosen):
            self._put(vectors_NW, torch.tensor(rows, device=self.model.device), vectors_BW, offset)
        return vectors_NW

    def _scales_of(self, vectors_NW: torch.Tensor) -> list[float]:
        largest_W = torch.maximum(vectors_NW.amax(0), -vectors_NW.amin(0)).cpu().numpy()
        if self.basis is not None:
            return [block_scale(float(largest_W.max()))]
        return [block_scale(float(largest_W[b.offset : b.stop].max())) for b in self.store.manifest.blocks]

    @contextmanager
    def _writing(self) -> Iterator[ShardWriter]:
        with ShardWriter(self.store, self.model.device) as self.writer:
            yield self.writer
        self.writer = None

    def _put(self, stored_NW: torch.Tensor, rows: torch.Tensor, vectors_BW: torch.Tensor, offset: int) -> None:
        """A checkpoint's share in what is stored: columns of its own, or what it adds to the learned sketch."""
        if self.basis is None:
            stored_NW[rows, offset : offset + vectors_BW.shape[1]] = vectors_BW.to(stored_NW.dtype)
        else:
            stored_NW[rows] += self.basis.project_part(vectors_BW, offset)

    def _shard(self, capture: GradientCapture, positions: range) -> ShardRows:
        shard = ShardRows(positions, self.store.manifest.width, len(self.store.manifest.checkpoints), self.model.device)
        offset = 0
        for column, features in enumerate(self.features):
            for batch in self._batches(list(positions)):
                vectors = features.compute(capture, batch.padded)
                vectors_BD, self_B = features.finish(vectors)
                rows = shard.places(batch.slots)
                shard.left_N[rows] += (1 - vectors.probability_B) / len(self.features)
                self._put(shard.vectors_NW, rows, vectors_BD, offset)
                shard.self_NC[rows, column] = self_B.to(shard.self_NC.dtype)
                shard.batch_done(rows)
                self._tick(len(rows), "sketch")
            offset += features.width
        if isinstance(self.plan.method, GradientMethod) and self.plan.method.damage:
            # the query's side of a self-score has no such weight, so it holds it once
            shard.vectors_NW *= shard.left_N.unsqueeze(1)
            shard.self_NC *= shard.left_N.unsqueeze(1)
        self._pass_rows(list(positions), shard)
        return shard

    def _pass_rows(self, positions: list[int], shard: ShardRows) -> None:
        """For methods without gradients."""
        passes = row_passes(self.model, self.plan, self.store)
        for number, row_pass in enumerate(passes, start=1):
            for batch in self._batches(positions):
                rows = shard.places(batch.slots)
                vectors_BD, self_B = row_pass(batch.padded)
                shard.vectors_NW[rows] += vectors_BD
                shard.self_NC[rows, 0] += self_B
                shard.batch_done(rows)
                self._tick(len(rows) if number == len(passes) else 0, "sketch")

    def _batches(self, positions: list[int]) -> Iterator[Batch]:
        rows = [self.rows.rows[i] for i in positions]
        return self.batcher.batches(rows, [self.rows.weights[i] for i in positions], positions)

    # --- progress and words ---

    @property
    def _passes(self) -> int:
        return max(1, self.plan.vectors if self.plan.tracked else 1)

    def _total(self) -> int:
        """In row passes, so that one number serves all phases and an ETA means something."""
        passes = 0
        if isinstance(self.plan.method, GradientMethod):
            metric = get_metric(self.plan.method.metric, self.plan.method_options)
            passes = metric.needs_covariance + metric.needs_eigen + (metric.sample != "none")
        training = self.model.recipe.training
        replicas = self.plan.options.replicas * training.epochs * self.plan.rows if training else 0
        sample = self.plan.widths.sketch_rows or 0
        return replicas + self._passes * (passes * self.plan.curvature_rows + sample + self.plan.rows)

    def _tick(self, rows: int, phase: str) -> None:
        self.done += rows
        if self.writer is not None:
            self.writer.check()
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
            features.state.label
            for features in self.features
            if any(sketch.is_zero for sketch in features.sketches.values())
        ]
        if silent:
            warnings.append(
                f"checkpoints {', '.join(silent)} hold modules without any gradient (an untrained lora_B = 0, say)"
            )
        return tuple(warnings + [f"{file} was damaged and made again" for file in self.store.dropped])


def _statistics_dtype(model: LoadedModel) -> torch.dtype:
    """float64 models are for tests of the mathematics and keep it; anything else is stored in float32."""
    return torch.float64 if model.dtype == torch.float64 else torch.float32
