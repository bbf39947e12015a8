"""The index on disk: manifest, shards, checksums, atomic renames, resume.

    manifest.json                         what the index is (engine/manifest.py); written last, after every step
    shards/00000.faiss                    the sketches of rows [0, shard_rows), memory-mapped when read
    shards/00000.norms.safetensors        their self-scores, norms and token counts
    curvature/<name>.safetensors          what the metric was fitted to
    curvature/basis.safetensors           a learned sketch's basis (engine/compression.py)
    curvature/lists.safetensors           of a large index, which rows lie near which centroid (engine/ivf.py)

A file counts only once the manifest records its checksum, so a build killed anywhere resumes at the
first missing shard. Dimensions: N rows, C checkpoints, D numbers a row, W stored numbers a row (D, or fewer of a
learned sketch), K rows asked for.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from engine.compression import LearnedBasis
from engine.durable import naming_full_disk, remove_partials, write_durably
from engine.errors import CorruptIndex, IndexUnavailable, NonFiniteGradient
from engine.manifest import MANIFEST_FILE, Manifest, ShardRecord, read_manifest, row_bytes, write_manifest
from engine.scan_device import DeviceRows
from engine.shard import (
    SHARD_FOLDER,
    Shard,
    check_files,
    encode,
    open_shard,
    read_self_scores,
    row_norms,
    shard_files,
    write_norms,
    write_sketches,
)

CURVATURE_FOLDER = "curvature"
BASIS_TENSORS = "basis"
_GATHERED_BYTES = 1 << 25
TENSORS_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class IndexStore:
    """One index directory, opened for building or for reading.

    Reading is safe from several threads; building belongs to one writer. `dropped` names the files
    that were damaged when a build was opened and have to be made again.
    """

    def __init__(self, path: Path, manifest: Manifest, dropped: tuple[str, ...] = ()) -> None:
        self.path = path
        self.manifest = manifest
        self.dropped = dropped
        self._opened: dict[str, Shard] = {}
        self._norms_N: np.ndarray | None = None
        self._scales_N: np.ndarray | None = None
        self._opening = threading.Lock()
        self.device_rows: DeviceRows | None = None  # set where a GPU shall search

    @classmethod
    def open(cls, path: Path) -> IndexStore:
        """Open a finished index. Raises IndexUnavailable when missing or unfinished, CorruptIndex."""
        manifest = read_manifest(path)
        if manifest.state != "ready":
            done = f"{len(manifest.shards)} of {manifest.shard_count} shards"
            raise IndexUnavailable(f"The index is still being built: {done} are finished.")
        return cls(path, manifest)

    @classmethod
    def open_or_create(cls, path: Path, manifest: Manifest) -> IndexStore:
        """Begin a build in `path`, or take up the one that lies there.

        What was finished is kept (the recorded block scales too), unless its checksum fails.
        Raises FingerprintMismatch when another build lies there, CorruptIndex (manifest only), StorageFull.
        """
        with naming_full_disk(path):
            for folder in (SHARD_FOLDER, CURVATURE_FOLDER):
                (path / folder).mkdir(parents=True, exist_ok=True)
        remove_partials(path)
        if not (path / MANIFEST_FILE).exists():
            store = cls(path, manifest)
            store._change(state="building", revision="", shards=(), curvature={})
            return store
        recorded = read_manifest(path)
        recorded.require_same_build(manifest)
        store = cls(path, recorded)
        store._drop_damaged()
        return store

    # --- building ---

    def set_scales(self, scales: Sequence[float]) -> None:
        """Fix each block's scale (see `engine.manifest.block_scale`): once, before the first shard."""
        if self.manifest.shards:
            raise ValueError("block scales are fixed once a shard is written")
        self._save(self.manifest.with_scales(scales))

    def missing_shards(self) -> list[tuple[int, int, int]]:
        """(number, start, stop) of every shard still to be written, in order."""
        finished = {record.start for record in self.manifest.shards}
        bounds = ((i, *self.manifest.shard_bounds(i)) for i in range(self.manifest.shard_count))
        return [(i, start, stop) for i, start, stop in bounds if start not in finished]

    def write_shard(
        self, number: int, vectors_ND: np.ndarray, self_scores_NC: np.ndarray, lengths_N: np.ndarray
    ) -> ShardRecord:
        """Store the rows of shard `number` (float [N, W], unscaled), their self-scores and token counts.

        The same input gives the same bytes. Raises NonFiniteGradient (NaN, infinity, or too large for
        float16), StorageFull (the shards finished before are kept), ValueError for a wrong shape.
        """
        start, stop = self.manifest.shard_bounds(number)
        self._require_shapes(stop - start, vectors_ND, self_scores_NC, lengths_N)
        # first: of two complaints, this one names the module
        index, scales_N = encode(vectors_ND, self.manifest, start)
        _require_finite(self_scores_NC, start)
        name = f"{number:05d}"
        sketches, norms = shard_files(name)
        first = write_sketches(self.path / sketches, index)
        norms_N = row_norms(index, self.manifest.scales(), scales_N)
        second = write_norms(self.path / norms, self_scores_NC, norms_N, lengths_N, scales_N)
        checksums = {sketches: first.checksum, norms: second.checksum}
        record = ShardRecord(name, start, stop, first.bytes + second.bytes, checksums)
        self._record(record)
        return record

    def _require_shapes(self, rows: int, vectors: np.ndarray, self_scores: np.ndarray, lengths: np.ndarray) -> None:
        expected = ((rows, self.manifest.width), (rows, len(self.manifest.checkpoints)), (rows,))
        found = (vectors.shape, self_scores.shape, lengths.shape)
        if found != expected:
            raise ValueError(f"vectors, self-scores and lengths have shapes {found}, expected {expected}")

    def _record(self, record: ShardRecord) -> None:
        self._opened.pop(record.name, None)
        others = [shard for shard in self.manifest.shards if shard.name != record.name]
        self._change(shards=tuple(sorted([*others, record], key=lambda shard: shard.start)))

    def drop_shard(self, number: int) -> None:
        """Forget a shard, so that the build makes it again."""
        name = f"{number:05d}"
        self._opened.pop(name, None)
        self._change(shards=tuple(s for s in self.manifest.shards if s.name != name), state="building", revision="")
        for file in shard_files(name):
            (self.path / file).unlink(missing_ok=True)

    def save_tensors(self, name: str, tensors: dict[str, np.ndarray]) -> None:
        """Write curvature/<name>.safetensors. Go on with what `load_tensors` returns, not with `tensors`:
        a resumed build has only the file, and both have to give the same bytes. Raises StorageFull."""
        file = _tensors_file(name)
        plain = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        written = write_durably(self.path / file, lambda sink: sink.write(save(plain)))
        self._change(curvature=self.manifest.curvature | {file: written.checksum})

    def drop_tensors(self, name: str) -> None:
        """Forget curvature/<name>.safetensors, if it is there."""
        file = _tensors_file(name)
        self._change(curvature={kept: sum_ for kept, sum_ in self.manifest.curvature.items() if kept != file})
        (self.path / file).unlink(missing_ok=True)

    def finish(self, **facts: Any) -> Manifest:
        """Declare the index ready. `facts` are manifest fields known only now (timings_s, warnings, …)."""
        missing = [number for number, _, _ in self.missing_shards()]
        if missing:
            raise IndexUnavailable(f"Shards {missing} of the index are not written yet.")
        known = dataclasses.replace(self.manifest, **facts)
        self._save(dataclasses.replace(known, state="ready", revision=known.computed_revision()))
        return self.manifest

    def _drop_damaged(self) -> None:
        """Forget every recorded file whose checksum fails; its name goes to `dropped`."""
        for record in self.manifest.shards:
            try:
                check_files(self.path, record.checksums)
            except CorruptIndex as error:
                self.drop_shard(record.start // self.manifest.shard_rows)
                self.dropped += (str(error.context["file"]),)
        kept = dict(self.manifest.curvature)
        for file, checksum in self.manifest.curvature.items():
            try:
                check_files(self.path, {file: checksum})
            except CorruptIndex:
                del kept[file]
                self.dropped += (file,)
        if kept != self.manifest.curvature:
            self._change(curvature=kept, state="building", revision="")

    def _change(self, **fields: Any) -> None:
        self._save(dataclasses.replace(self.manifest, **fields))

    def _save(self, manifest: Manifest) -> None:
        write_manifest(self.path, manifest)  # the disk first: a failed write leaves memory as it was, too
        self.manifest = manifest

    # --- reading ---

    def has_tensors(self, name: str) -> bool:
        return _tensors_file(name) in self.manifest.curvature

    def load_tensors(self, name: str) -> dict[str, np.ndarray]:
        """Raises IndexUnavailable when nothing was saved under this name, CorruptIndex."""
        return load_file(self.tensors_file(name))

    def tensors_file(self, name: str) -> Path:
        """Where `load_tensors` would read, checked, to be mapped. Raises as it does."""
        file = _tensors_file(name)
        if file not in self.manifest.curvature:
            raise IndexUnavailable(f"The index holds no {file}.")
        check_files(self.path, {file: self.manifest.curvature[file]})
        return self.path / file

    def shards(self) -> Iterator[Shard]:
        """Every recorded shard in row order; checksums are checked when a shard is first opened."""
        for record in self.manifest.shards:
            yield self._shard(record)

    def _shard(self, record: ShardRecord) -> Shard:
        with self._opening:
            if record.name not in self._opened:
                self._opened[record.name] = open_shard(self.path, record, self.manifest)
            return self._opened[record.name]

    def stored(self, positions_K: np.ndarray) -> np.ndarray:
        """float32 [K, W]: the rows exactly as the disk holds them, scales included."""
        positions_K = np.asarray(positions_K, np.int64)
        if positions_K.size and (positions_K.min() < 0 or positions_K.max() >= self.manifest.rows):
            raise IndexError(f"positions must lie in [0, {self.manifest.rows})")
        stored_KD = np.empty((len(positions_K), self.manifest.width), np.float32)
        shards_K = np.searchsorted([record.stop for record in self.manifest.shards], positions_K, side="right")
        for number in np.unique(shards_K):
            inside_K, record = shards_K == number, self.manifest.shards[number]
            stored_KD[inside_K] = self._shard(record).stored(positions_K[inside_K] - record.start)
        return stored_KD

    def gathered(self, positions_M: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """(which of positions_M, their codes [K, W] as `Shard.codes` has them, int8's row scales [K]), in pieces.

        positions_M: int64, ascending.
        """
        step = max(1, _GATHERED_BYTES // row_bytes(self.manifest.width, self.manifest.dtype))
        for start in range(0, len(positions_M), step):
            part = slice(start, min(start + step, len(positions_M)))
            scales_N = self.row_scales()
            yield part, self._codes(positions_M[part]), None if scales_N is None else scales_N[positions_M[part]]

    def _codes(self, positions_K: np.ndarray) -> np.ndarray:
        records = self.manifest.shards
        edges = np.searchsorted(positions_K, [record.stop for record in records])
        pieces = []
        for record, first, last in zip(records, [0, *edges[:-1]], edges, strict=True):
            if first < last:
                pieces.append(self._shard(record).codes[positions_K[first:last] - record.start])
        return np.concatenate(pieces)

    def rows(self, positions_K: np.ndarray) -> np.ndarray:
        """float32 [K, D]: the rows with the scales undone. Of a learned sketch, what stands for the row in the full
        space: its inner product with any query is the row's score."""
        rows_KW = self.stored(positions_K) / self.manifest.scales()
        return rows_KW if self.basis is None else self.basis.lift(rows_KW)

    def lifted(self, query_D: np.ndarray) -> np.ndarray:
        """float [D]: what a row's uncompressed vector has to be multiplied by for the score of its learned sketch."""
        return query_D if self.basis is None else self.basis.lift(self.basis.project(query_D)[None])[0]

    @cached_property
    def basis(self) -> LearnedBasis | None:
        """None where the disk holds the rows' own numbers."""
        return LearnedBasis.from_arrays(self.load_tensors(BASIS_TENSORS)) if self.manifest.compression else None

    def self_scores(self) -> np.ndarray:
        """float32 [N, C]; of a shard that is not open, only the small file they are in is read and checked."""
        opened = self._opened
        return np.concatenate(
            [
                opened[record.name].self_scores_NC if record.name in opened else read_self_scores(self.path, record)
                for record in self.manifest.shards
            ]
        )

    def norms(self) -> np.ndarray:
        """float64 [N]: Euclidean length of each stored row, scales undone."""
        if self._norms_N is None or len(self._norms_N) != self.manifest.rows:  # shards are still being written
            self._norms_N = np.concatenate([shard.norms_N for shard in self.shards()])
        return self._norms_N

    def row_scales(self) -> np.ndarray | None:
        """float32 [N], of int8; None of other numbers."""
        if self.manifest.dtype != "int8":
            return None
        if self._scales_N is None or len(self._scales_N) != self.manifest.rows:
            self._scales_N = np.concatenate([s.row_scales_N for s in self.shards() if s.row_scales_N is not None])
        return self._scales_N

    def lengths(self) -> np.ndarray:
        """int32 [N]: tokens of each row."""
        return np.concatenate([shard.lengths_N for shard in self.shards()])

    def bytes(self) -> int:
        """Everything the index takes on disk."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def verify(self) -> None:
        """Read every recorded file and compare checksums. Raises CorruptIndex naming the first bad one."""
        for record in self.manifest.shards:
            check_files(self.path, record.checksums, shard=record.name)
        check_files(self.path, self.manifest.curvature)


def _tensors_file(name: str) -> str:
    if not TENSORS_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name: use letters, digits, '.', '_' and '-'")
    return f"{CURVATURE_FOLDER}/{name}.safetensors"


def _require_finite(self_scores_NC: np.ndarray, first_row: int) -> None:
    with np.errstate(over="ignore"):
        bad_N = ~np.isfinite(self_scores_NC.astype(np.float32)).all(axis=1)
    if bad_N.any():
        position = first_row + int(np.flatnonzero(bad_N)[0])
        raise NonFiniteGradient(f"NaN or infinity in the self-score of row {position}.", position=position)
