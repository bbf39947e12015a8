"""One shard: a FAISS file with the stored numbers of rows [start, stop), and a small file with their norms.

Dimensions: N rows of the shard, C checkpoints, D stored numbers a row, K rows asked for. Stored = value × scale.

int8: FAISS holds whole numbers from −127 to 127, and what they stand for is number × the row's own scale, which is
beside the norms. One scale for all rows would spend most of its 255 steps on the largest row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from safetensors.numpy import load_file, save

from engine.durable import Written, checksum_of, write_durably
from engine.errors import CorruptIndex, NonFiniteGradient
from engine.manifest import Manifest, ShardRecord

SHARD_FOLDER = "shards"
FLOAT16_MAXIMUM = float(np.finfo(np.float16).max)
CHUNK_NUMBERS = 1 << 22  # rows are encoded and decoded in pieces of about 16 MB
FAISS_WRITE_BYTES = 1 << 20
LEVELS = 127
_KINDS = {faiss.ScalarQuantizer.QT_fp16: np.float16, faiss.ScalarQuantizer.QT_8bit_uniform: np.uint8}


def shard_files(name: str) -> tuple[str, str]:
    """Paths below the index directory: (sketches, norms)."""
    return f"{SHARD_FOLDER}/{name}.faiss", f"{SHARD_FOLDER}/{name}.norms.safetensors"


def chunk_rows(dims: int) -> int:
    return max(1, CHUNK_NUMBERS // dims)


@dataclass(frozen=True)
class Shard:
    """An opened shard. `index` is a memory-mapped flat FAISS index (the library has no types).

    self_scores_NC float32; norms_N float64, the length of each row as stored, scales undone; lengths_N int32.
    row_scales_N: float32, of int8; None = the index holds the stored numbers themselves.
    """

    record: ShardRecord
    index: Any
    self_scores_NC: np.ndarray
    norms_N: np.ndarray
    lengths_N: np.ndarray
    row_scales_N: np.ndarray | None = None

    @cached_property
    def codes(self) -> np.ndarray:
        """float32, float16 or uint8 (int8 + 127) [N, W]: the mapped bytes themselves, not to be written to."""
        size, index = self.index.ntotal * self.index.code_size, self.index
        kind = np.float32 if isinstance(index, faiss.IndexFlat) else _KINDS[index.sq.qtype]
        # the view does not keep the index, and so the mapping, alive; this object does
        return faiss.rev_swig_ptr(index.codes.data(), size).view(kind).reshape(index.ntotal, -1)

    def stored(self, offsets_K: np.ndarray) -> np.ndarray:
        """float32 [K, D]: the exact stored numbers of these rows, counted from the shard's start."""
        numbers_KD = self.index.reconstruct_batch(offsets_K)
        return numbers_KD if self.row_scales_N is None else numbers_KD * self.row_scales_N[offsets_K, None]


def encode(vectors_ND: np.ndarray, manifest: Manifest, first_row: int) -> tuple[Any, np.ndarray | None]:
    """A flat FAISS index of the scaled rows, and int8's row scales. Raises NonFiniteGradient (row and module)."""
    index = empty_index(manifest.width, manifest.dtype)
    row_scales_N = np.ones(len(vectors_ND), np.float32) if manifest.dtype == "int8" else None
    scale_D = manifest.scales()
    step = chunk_rows(manifest.width)
    for start in range(0, len(vectors_ND), step):
        with np.errstate(over="ignore", invalid="ignore"):
            scaled_KD = np.multiply(vectors_ND[start : start + step], scale_D, dtype=np.float32, casting="same_kind")
        _require_storable(scaled_KD, manifest, first_row + start)
        if row_scales_N is not None:
            scales_K = row_scales_N[start : start + step] = row_scales(scaled_KD)
            scaled_KD = np.rint(scaled_KD / scales_K[:, None])
        index.add(scaled_KD)
    return index, row_scales_N


def empty_index(width: int, dtype: str) -> Any:
    if dtype == "float32":
        return faiss.IndexFlatIP(width)
    kind = faiss.ScalarQuantizer.QT_fp16 if dtype == "float16" else faiss.ScalarQuantizer.QT_8bit_uniform
    index: Any = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT)
    if dtype == "int8":
        # (lowest, range): code c stands for lowest + (c + ½)/255 · range, here c − 127: whole numbers come back exactly
        faiss.copy_array_to_vector(np.array([-LEVELS - 0.5, 2 * LEVELS + 1], np.float32), index.sq.trained)
        index.is_trained = True
    return index


def row_scales(scaled_KD: np.ndarray) -> np.ndarray:
    """float32 [K]: each row's largest number becomes ±127; 1 for a row of zeros."""
    largest_K = np.abs(scaled_KD).max(axis=1)
    scales_K = np.maximum(largest_K / np.float32(LEVELS), np.finfo(np.float32).tiny)
    return np.where(largest_K > 0, scales_K, np.float32(1)).astype(np.float32)


def _require_storable(scaled_KD: np.ndarray, manifest: Manifest, first_row: int) -> None:
    limit = FLOAT16_MAXIMUM if manifest.dtype == "float16" else float(np.finfo(np.float32).max)
    with np.errstate(invalid="ignore"):
        if scaled_KD.max(initial=0.0) <= limit and scaled_KD.min(initial=0.0) >= -limit:  # false for NaN too
            return
        fine_KD = np.abs(scaled_KD) <= limit
    row, column = (int(i) for i in np.argwhere(~fine_KD)[0])
    module = "learned sketch"
    if manifest.compression is None:
        module = next(block.module for block in manifest.blocks if column < block.stop)
    where = f"row {first_row + row}, module {module!r}"
    context = {"position": first_row + row, "module": module}
    if np.isfinite(scaled_KD[row, column]):
        raise NonFiniteGradient(
            f"A gradient is too large to store in float16: {where}.",
            remedy="Build the index with options.dtype: float32.",
            **context,
        )
    raise NonFiniteGradient(f"NaN or infinity in a gradient: {where}.", **context)


def row_norms(index: Any, scale_D: np.ndarray, row_scales_N: np.ndarray | None) -> np.ndarray:
    """float64 [N]: Euclidean length of each row as stored, scales undone."""
    norms_N = np.empty(index.ntotal, np.float64)
    step = chunk_rows(index.d)
    for start in range(0, index.ntotal, step):
        count = min(step, index.ntotal - start)
        rows_KD = index.reconstruct_n(start, count).astype(np.float64)
        rows_KD /= scale_D
        norms_N[start : start + count] = np.sqrt(np.einsum("kd,kd->k", rows_KD, rows_KD))
    return norms_N if row_scales_N is None else norms_N * row_scales_N


def write_sketches(path: Path, index: Any) -> Written:
    """Raises StorageFull."""
    # Through a callback, so that the bytes are hashed as they pass and a full disk stays an OSError.
    writer: Any = faiss.PyCallbackIOWriter  # pyright: ignore[reportAttributeAccessIssue]
    return write_durably(path, lambda sink: faiss.write_index(index, writer(sink.write, FAISS_WRITE_BYTES)))


def write_norms(
    path: Path,
    self_scores_NC: np.ndarray,
    norms_N: np.ndarray,
    lengths_N: np.ndarray,
    row_scales_N: np.ndarray | None,
) -> Written:
    """Raises StorageFull."""
    tensors = {
        "self_scores": np.ascontiguousarray(self_scores_NC, np.float32),
        "norms": np.ascontiguousarray(norms_N, np.float64),
        "lengths": np.ascontiguousarray(lengths_N, np.int32),
    }
    if row_scales_N is not None:
        tensors["row_scales"] = np.ascontiguousarray(row_scales_N, np.float32)
    return write_durably(path, lambda sink: sink.write(save(tensors)))


def open_shard(root: Path, record: ShardRecord, manifest: Manifest) -> Shard:
    """Check the checksums and map the sketches into memory. Raises CorruptIndex naming the file."""
    check_files(root, record.checksums, shard=record.name)
    sketches, norms = shard_files(record.name)
    try:
        index = faiss.read_index(str(root / sketches), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise damaged(sketches, "FAISS cannot read it", shard=record.name) from error
    if (index.ntotal, index.d) != (record.stop - record.start, manifest.width):
        raise damaged(sketches, f"it holds {index.ntotal} rows of {index.d} numbers", shard=record.name)
    if _code(index) != _code(empty_index(manifest.width, manifest.dtype)):
        raise damaged(sketches, f"its numbers are not {manifest.dtype}", shard=record.name)
    tensors = load_file(root / norms)
    scales_N = tensors["row_scales"] if manifest.dtype == "int8" else None
    return Shard(record, index, tensors["self_scores"], tensors["norms"], tensors["lengths"], scales_N)


def read_self_scores(root: Path, record: ShardRecord) -> np.ndarray:
    """float32 [rows, C]; the sketches, a thousand times as large, are not touched. Raises CorruptIndex."""
    _, norms = shard_files(record.name)
    check_files(root, {norms: record.checksums[norms]}, shard=record.name)
    return load_file(root / norms)["self_scores"]


def _code(index: Any) -> tuple[object, ...]:
    """How an index's bytes are to be read: numbers of another kind, or on another scale, would pass as garbage."""
    if not isinstance(index, faiss.IndexScalarQuantizer):
        return (type(index),)
    return type(index), index.sq.qtype, tuple(faiss.vector_to_array(index.sq.trained).tolist())


def check_files(root: Path, checksums: dict[str, str], **context: Any) -> None:
    """Raise CorruptIndex naming the first file that is missing or whose bytes are not the recorded ones."""
    for file, recorded in checksums.items():
        try:
            found = checksum_of(root / file)
        except FileNotFoundError as error:
            raise damaged(file, "it is missing", **context) from error
        if found != recorded:
            raise damaged(file, "its checksum differs from the recorded one", **context)


def damaged(file: str, reason: str, **context: Any) -> CorruptIndex:
    return CorruptIndex(f"The index file {file} is damaged: {reason}.", file=file, **context)
