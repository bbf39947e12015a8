"""What is lost by storing less: rankings by compressed rows against exact ones, by bytes a row.

    python -m benchmarks.sketches [--work DIR] [--small]
    python -m benchmarks.sketches --tables              the tables of docs/sketches.md, from results/sketches.json

EK-FAC over five checkpoints. An index of whole gradients in float32 gives the rows and the exact scores. Every format's
index is made from those rows by the functions that a build uses (a build would compute the same gradients once more for
each) and is asked through the engine's search. Two worlds: more than 5,000 rows, of which there are no retrainings, and
the quality benchmark's rows with the half-subset retrainings of results/quality, where each format has an LDS. There
the basis is fitted to all rows, so as many numbers as rows would be exact by construction.

--small: a few rows, a smoke test; nothing is written.

Shapes: Q queries, N rows, B of them, S sample rows, D numbers of a whole row, W of a stored one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import faiss
import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from benchmarks.large_world import FineTuned, fine_tune, large_queries, large_rows
from benchmarks.quality import kept, recipes, world
from benchmarks.report import RESULTS, show, write
from engine.build import build_index
from engine.compression import LearnedBasis, Spectrum, fit_basis, spectrum_of
from engine.config import IndexConfig, IndexOptions
from engine.evaluate.lds import predict, score_lds
from engine.manifest import Compression, block_scale, lay_out, row_bytes
from engine.measure import measure_with_gradients
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.question import prepare
from engine.search import score_all
from engine.sketch import Projection
from engine.store import BASIS_TENSORS, IndexStore

COMMAND = "python -m benchmarks.sketches"
QUERIES = 96
# (random sketch's width or None, rows the basis is fitted to, numbers kept): all of a line share one decomposition
LEARNED = (
    (None, 2048, (60, 124, 252, 508, 1020, 2044)),
    (None, 1024, (1020,)),
    (32, 2048, (2044,)),  # where the basis would be too large
    (8, 2048, (2044,)),
)
RANDOM = (1, 2, 4, 8, 16, 32)
CHUNK, SHARD_ROWS, SCALE_ROWS, TOP, TIMED = 256, 1024, 64, 10, 3

Learned = tuple[int | None, int, tuple[int, ...]]


@dataclass(frozen=True)
class Exact:
    """A world's whole rows on disk, its queries' vectors and exact scores. outcome_QM, kept_MN: its retrainings."""

    store: IndexStore
    tracked: tuple[TrackedModule, ...]
    query_QD: np.ndarray
    scores_QN: np.ndarray
    outcome_QM: np.ndarray | None = None
    kept_MN: np.ndarray | None = None

    @property
    def rows(self) -> int:
        return self.store.manifest.rows

    def chunks(self) -> Iterator[Tensor]:
        for start in range(0, self.rows, CHUNK):
            yield torch.from_numpy(self.store.rows(np.arange(start, min(start + CHUNK, self.rows))))

    def sample(self, rows: int) -> Tensor:
        """[S, D]"""
        chosen = np.sort(np.random.default_rng(0).choice(self.rows, min(rows, self.rows), replace=False))
        return torch.from_numpy(self.store.rows(chosen))


@dataclass(frozen=True)
class Format:
    """random: sides' width of a random sketch, None = whole. basis: of the learned one after it, fitted to `sample`."""

    dtype: Literal["int8", "float16"]
    random: int | None = None
    basis: LearnedBasis | None = None
    sample: int | None = None

    @property
    def name(self) -> str:
        parts = [f"random {self.random}"] * (self.random is not None) + ["learned"] * (self.basis is not None)
        return ", then ".join(parts) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="where fine-tunes and exact indexes are kept (a temporary folder)")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--tables", action="store_true", help="print the tables of what was measured before")
    options = parser.parse_args()
    if options.tables:
        return print(tables(json.loads((RESULTS / "sketches.json").read_text())["rows"]))
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="whence-sketches-") as scratch:
        work = options.work or Path(scratch)
        rows = small(work / "small") if options.small else [*large(work / "large"), *retrained(work / "retrained")]
    show("sketches", rows)
    if not options.small:
        write("sketches", COMMAND, rows)


def small(work: Path) -> list[dict[str, Any]]:
    seeds, training = range(101, 102), replace(recipes.SMOOTH, epochs=2)
    tuned = fine_tune(large_rows(seeds)[:120], large_queries(6, seeds), work, training)
    return curve(exact_scores(tuned, work), ((None, 100, (12, 60)), (8, 100, (60,))), (1, 8), work)


def large(work: Path) -> list[dict[str, Any]]:
    tuned = fine_tune(large_rows(), large_queries(QUERIES), work)
    return curve(exact_scores(tuned, work), LEARNED, RANDOM, work)


def retrained(work: Path) -> list[dict[str, Any]]:
    """The quality benchmark's smooth recipe, whose outcomes are on record."""
    rows, queries = world.rows(), list(recipes.queries(world.questions()))
    truth, _ = kept.kept("smooth")
    if truth.half_kept_MN.shape[1] != len(rows):
        raise SystemExit("results/quality/smooth.npz is of other rows: run benchmarks.quality first.")
    exact = exact_scores(fine_tune(rows, queries, work, recipes.SMOOTH), work)
    exact = replace(exact, outcome_QM=truth.half_outcome_QMR.mean(2), kept_MN=truth.half_kept_MN)
    learned = ((None, len(rows), (60, 124, 252, 508)), (8, len(rows), (508,)))
    return curve(exact, learned, RANDOM, work)


def exact_scores(tuned: FineTuned, work: Path) -> Exact:
    config = IndexConfig("ekfac", options=IndexOptions(dtype="float32", sketch="none"))
    build_index(tuned.model, tuned.data, config, work / "exact", lambda _progress: None)
    with OpenIndex(tuned.model, tuned.data, work / "exact") as index:
        questions = [prepare(tuned.model, None, query) for query in tuned.queries]
        vectors = [measure_with_gradients(index, [question])[0][0].vector_D for question in questions]
        query_QD = np.stack(vectors).astype(np.float32)
        return Exact(index.store, index.plan.tracked, query_QD, score_all(index.store, query_QD))


def curve(exact: Exact, learned: Sequence[Learned], random: Sequence[int], work: Path) -> list[dict[str, Any]]:
    """One row for every format and dtype."""
    formats = [Format("int8"), *(Format("int8", random=width) for width in random)]
    print(f"exact scores of {exact.rows} rows and {len(exact.query_QD)} queries are there", flush=True)
    rows = [asked(exact, format, work) for format in formats]
    rows += [asked(exact, replace(format, dtype="float16"), work) for format in formats[1:]]
    for each in learned:
        for format in fitted(exact, *each):
            parts = list(sketched(exact, format))  # once for both
            rows += [asked(exact, replace(format, dtype=dtype), work, parts) for dtype in ("int8", "float16")]
    return sorted(rows, key=lambda row: (row["sketch"], row["fitted to"] or 0, row["dtype"], row["bytes a row"]))


def fitted(exact: Exact, random: int | None, sample: int, widths: Sequence[int]) -> Iterator[Format]:
    sample_SD = apply_random(exact, random, exact.sample(sample))
    spectrum: Spectrum = spectrum_of(sample_SD)
    for width in widths:
        yield Format("int8", random, fit_basis(sample_SD, width, 0, spectrum), len(sample_SD))


def apply_random(exact: Exact, width: int | None, vectors_BD: Tensor) -> Tensor:
    """[B, D] → the build's own two-sided random sketch of every module of every checkpoint."""
    if width is None:
        return vectors_BD
    modules = {module.name: module for module in exact.tracked}
    parts = []
    for block in exact.store.manifest.blocks:
        projection = Projection(width, 0, block.checkpoint)
        phi = vectors_BD[:, block.offset : block.stop].unflatten(1, (block.rows, block.cols))
        left_PO, right_RI = projection.left(modules[block.module]), projection.right(modules[block.module])
        phi = phi if left_PO is None else torch.from_numpy(left_PO).float() @ phi
        phi = phi if right_RI is None else phi @ torch.from_numpy(right_RI).float().T
        parts.append(phi.flatten(1))
    return torch.cat(parts, 1)


def asked(exact: Exact, format: Format, work: Path, parts: Iterable[np.ndarray] | None = None) -> dict[str, Any]:
    """Make the index of a format, score every query by it, and compare. parts: the rows' sketches, where known."""
    with tempfile.TemporaryDirectory(prefix="format-", dir=work) as folder:
        store = stored(exact, format, Path(folder), parts or sketched(exact, format))
        query_QD = apply_random(exact, format.random, torch.from_numpy(exact.query_QD)).numpy()
        scores_QN = score_all(store, query_QD)
        milliseconds = projecting(format.basis, query_QD)
    width = store.manifest.width
    agreement_Q, overlap_Q = spearman(scores_QN, exact.scores_QN), overlap(scores_QN, exact.scores_QN)
    return {
        "N": exact.rows,
        "sketch": format.name,
        "fitted to": format.sample,
        "dtype": format.dtype,
        "numbers": width,
        "bytes a row": row_bytes(width, format.dtype),
        "basis MB": 0.0 if format.basis is None else format.basis.basis_KD.nbytes / 1e6,
        "Spearman": float(agreement_Q.mean()),
        "least": float(agreement_Q.min()),
        f"overlap@{TOP}": float(overlap_Q.mean()),
        "LDS": lds(exact, scores_QN),
        "exact LDS": lds(exact, exact.scores_QN),
        "query ms": milliseconds,
    }


def stored(exact: Exact, format: Format, path: Path, parts: Iterable[np.ndarray]) -> IndexStore:
    manifest = exact.store.manifest
    shapes = [(m.name, *Projection(format.random, 0, 0).shape(m)) for m in exact.tracked]
    manifest = replace(
        manifest,
        dtype=format.dtype,
        blocks=lay_out(shapes, len(manifest.checkpoints)),
        compression=None if format.basis is None else Compression(format.basis.width, format.sample or 0),
        plan=manifest.plan | {"shard_rows": SHARD_ROWS},
        shards=(),
        curvature={},
        state="building",
    )
    store = IndexStore.open_or_create(path, manifest)
    if format.basis is not None:
        store.save_tensors(BASIS_TENSORS, format.basis.to_arrays())
    write_rows(store, parts)
    store.finish()
    return IndexStore.open(path)


def write_rows(store: IndexStore, parts: Iterable[np.ndarray]) -> None:
    """A shard is SHARD_ROWS / CHUNK parts, or what is left."""
    following = iter(parts)
    for number, start, stop in store.missing_shards():
        vectors_NW = np.concatenate([next(following) for _ in range(start, stop, CHUNK)])
        if number == 0:
            store.set_scales(scales(store, vectors_NW[:SCALE_ROWS]))
        selves_NC = np.zeros((stop - start, len(store.manifest.checkpoints)))
        store.write_shard(number, vectors_NW, selves_NC, np.ones(stop - start, np.int32))


def sketched(exact: Exact, format: Format) -> Iterator[np.ndarray]:
    """float32 [B, W], part by part."""
    for vectors_BD in exact.chunks():
        vectors_BD = apply_random(exact, format.random, vectors_BD)
        yield (vectors_BD if format.basis is None else format.basis.project_part(vectors_BD, 0)).numpy()


def scales(store: IndexStore, vectors_NW: np.ndarray) -> list[float]:
    largest_W = np.abs(vectors_NW).max(0)
    if store.manifest.compression:
        return [block_scale(float(largest_W.max()))]
    return [block_scale(float(largest_W[b.offset : b.stop].max())) for b in store.manifest.blocks]


def projecting(basis: LearnedBasis | None, query_QD: np.ndarray) -> float | None:
    """Milliseconds that a query pays for a learned sketch, median."""
    if basis is None:
        return None
    taken = []
    for query_D in query_QD[:TIMED]:
        started = time.perf_counter()
        basis.project_part(torch.from_numpy(query_D)[None], 0)
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def spearman(found_QN: np.ndarray, exact_QN: np.ndarray) -> np.ndarray:
    """[Q]"""
    return np.array([np.corrcoef(rankdata(a), rankdata(b))[0, 1] for a, b in zip(found_QN, exact_QN, strict=True)])


def overlap(found_QN: np.ndarray, exact_QN: np.ndarray) -> np.ndarray:
    """[Q]: share of the exact TOP that is among the found TOP."""
    tops = [np.argsort(-scores_QN, axis=1, kind="stable")[:, :TOP] for scores_QN in (found_QN, exact_QN)]
    return np.array([len(np.intersect1d(a, b)) / TOP for a, b in zip(*tops, strict=True)])


def lds(exact: Exact, scores_QN: np.ndarray) -> float | None:
    if exact.outcome_QM is None or exact.kept_MN is None:
        return None
    return score_lds(predict(scores_QN, exact.kept_MN), exact.outcome_QM).value


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one table a world, the fewest bytes first; a column that a world has nothing for is left out."""
    return "\n\n".join(_table([row for row in rows if row["N"] == count]) for count in {row["N"]: None for row in rows})


def _table(rows: Sequence[dict[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda row: (row["bytes a row"], row["sketch"]))
    names = [name for name in ordered[0] if any(row[name] is not None for row in ordered)]
    lines = [names, ["---"] * len(names), *([_cell(name, row[name]) for name in names] for row in ordered)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(name: str, value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if name in ("basis MB", "query ms") else f"{value:.3f}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
