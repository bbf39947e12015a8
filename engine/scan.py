"""Every row's score, in one pass over a shard's stored bytes.

FAISS keeps the bytes, and gives all scores of a flat index only through a heap of all rows, which costs several times
what reading them does (docs/decisions.md 52). Here a piece of the rows that fits the processor's cache is made ready
once and multiplied with every query that waits:

    float32   as it is stored
    float16   widened to float32
    int8      whole numbers times whole numbers: the query is cut into three planes of int8, the products are summed
              exactly by the processor's int8 instructions, and every score is the same on every machine

Each query is multiplied by itself (or exactly), so its scores do not depend on who else asks.

Dimensions: Q queries, N rows of the shard, W stored numbers a row, K rows of a piece, P planes of all queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from engine.errors import NonFiniteGradient
from engine.shard import LEVELS, Shard

# 1 MiB as float32, half of a core's own cache. Threads with smaller ones wait for the interpreter.
PIECE_NUMBERS = 1 << 18
_PART_PIECES = 32  # 8 MiB of int8
PLANE_BITS, PLANES = 8, 3  # of a query: 24 bits, as many as float32 has
_EXACT_WIDTH = 1 << 16  # columns summed at a time: 128 · 127 · 2¹⁶ stays below 2³¹
_SIGN_BITS = int.from_bytes(b"\x80" * 8, "little", signed=True)  # flips the top bit of eight bytes at once


class Queries:
    """Queries made ready once for any number of shards. query_QW: float64, finite as float32, in stored units."""

    def __init__(self, query_QW: np.ndarray) -> None:
        self.query_QW = query_QW

    def __len__(self) -> int:
        return len(self.query_QW)

    @cached_property
    def singles(self) -> tuple[Tensor, ...]:
        """float32 [W], each."""
        return torch.from_numpy(self.query_QW.astype(np.float32)).unbind()

    @cached_property
    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [Q, W], float64 [Q]: query ≈ whole numbers of 24 bits · unit, off by half a unit at most."""
        largest_Q = np.abs(self.query_QW).max(1, initial=0.0)
        units_Q = np.where(largest_Q > 0, largest_Q, 1.0) / (LEVELS << (PLANE_BITS * (PLANES - 1)))
        return np.rint(self.query_QW / units_Q[:, None]).astype(np.int64), units_Q

    @cached_property
    def planes(self) -> tuple[Tensor, np.ndarray]:
        return _planes(*self.whole)


def scan(shard: Shard, queries: Queries, rows: slice = slice(None)) -> np.ndarray:
    """float32 [Q, N]: ⟨query, stored numbers⟩ of the shard's rows, all or one of its `parts`, in stored units.

    Raises NonFiniteGradient for a score beyond float32.
    """
    scales_N = None if shard.row_scales_N is None else shard.row_scales_N[rows]
    return scan_codes(shard.codes[rows], scales_N, queries, f"shard {shard.record.name}")


def parts(shard: Shard) -> list[slice]:
    """What one core scans at a time: whole pieces, so that no score depends on it."""
    rows, width = shard.codes.shape
    step = _PART_PIECES * max(1, PIECE_NUMBERS // max(1, width))
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def scan_codes(codes_NW: np.ndarray, row_scales_N: np.ndarray | None, queries: Queries, where: str) -> np.ndarray:
    """As `scan`, of rows that lie anywhere (`Shard.codes` says in what form). where: for the error."""
    exact = row_scales_N is not None and _integer_products_are_exact()
    pieces = _exact_pieces(codes_NW, queries) if exact else _float_pieces(codes_NW, queries)
    found_QN = np.empty((len(queries), len(codes_NW)), np.float32)
    start = 0
    with np.errstate(over="ignore"):
        for scores_QK in pieces:
            stop = start + scores_QK.shape[1]
            scales = 1 if row_scales_N is None else row_scales_N[start:stop]
            np.multiply(scores_QK, scales, out=found_QN[:, start:stop], casting="same_kind")
            start = stop
    if not np.isfinite(found_QN).all():
        raise NonFiniteGradient(f"A score overflows float32 in {where}.")
    return found_QN


def _float_pieces(codes_NW: np.ndarray, queries: Queries) -> Iterator[np.ndarray]:
    """float32 [Q, K], piece by piece."""
    for piece_KW in _widened(codes_NW):
        scores_QK = torch.empty(len(queries), len(piece_KW))
        for query_W, scores_K in zip(queries.singles, scores_QK, strict=True):
            torch.mv(piece_KW, query_W, out=scores_K)
        yield scores_QK.numpy()


def _widened(codes_NW: np.ndarray) -> Iterator[Tensor]:
    """float32 [K, W], piece by piece; each is overwritten by the next."""
    codes = torch.from_numpy(codes_NW)
    pieces = codes.split(max(1, PIECE_NUMBERS // codes.shape[1]))
    if codes.dtype == torch.float32:
        yield from pieces
        return
    room = torch.empty(pieces[0].shape)
    for piece in pieces:
        wide_KW = room[: len(piece)].copy_(piece)
        yield wide_KW.sub_(LEVELS) if codes.dtype == torch.uint8 else wide_KW


# --- int8 ---


def _exact_pieces(codes_NW: np.ndarray, queries: Queries) -> Iterator[np.ndarray]:
    """float64 [Q, K], piece by piece, exact for the query rounded to 24 bits of its largest number."""
    planes_WP, units_Q = queries.planes
    codes = torch.from_numpy(codes_NW)
    rows = max(1, 4 * PIECE_NUMBERS // codes.shape[1])  # a quarter of float32's bytes
    room = torch.empty(min(rows, len(codes)), codes.shape[1], dtype=torch.int8)
    # what is stored as c stands for c − 127, and the flipped top bit made c − 128 of it: one more of each query number
    once_P = planes_WP.sum(0, dtype=torch.int64).double()
    for group in codes.split(rows * _FINISHED_AT_ONCE):
        sums_KP = torch.cat([_products(_signed(piece, room), planes_WP) for piece in group.split(rows)]).double()
        sums_KP += once_P
        # whole numbers below 2⁵³ throughout: float64 adds them exactly, in whatever order
        yield (sums_KP.view(len(group), len(units_Q), PLANES) @ _PLACES).T.numpy() * units_Q[:, None]


_FINISHED_AT_ONCE = 32  # pieces: what follows the products is many small steps
_PLACES = torch.tensor([float(1 << (PLANE_BITS * place)) for place in range(PLANES)], dtype=torch.float64)


def _planes(whole_QW: np.ndarray, units_Q: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """int8 [W, Q·3], float64 [Q]: query ≈ Σ_p plane_p · 256^p · unit.

    unit: the largest number / (127 · 256²), so that the highest plane fits too.
    """
    left_QW = whole_QW
    planes = []
    for _ in range(PLANES):
        low_QW = (left_QW + 128) % 256 - 128
        planes.append(low_QW)
        left_QW = (left_QW - low_QW) >> PLANE_BITS
    planes_QPW = np.stack(planes, 1).astype(np.int8)
    # Copied into new memory: of a single column `contiguous` keeps strides that _int_mm reads beyond.
    planes_WP = torch.empty(whole_QW.shape[1], planes_QPW.shape[0] * PLANES, dtype=torch.int8)
    return planes_WP.copy_(torch.from_numpy(planes_QPW.reshape(-1, whole_QW.shape[1]).T)), units_Q


def _signed(codes_KW: Tensor, room: Tensor) -> Tensor:
    """int8 [K, W], in `room`: the stored byte − 128."""
    room_KW = room[: len(codes_KW)]
    if codes_KW.shape[1] % 8:
        torch.bitwise_xor(codes_KW, 0x80, out=room_KW.view(torch.uint8))
    else:
        torch.bitwise_xor(codes_KW.view(torch.int64), _SIGN_BITS, out=room_KW.view(torch.int64))
    return room_KW


def _products(rows_KW: Tensor, planes_WP: Tensor) -> Tensor:
    """int32 (int64 of wide rows) [K, P], exact."""
    if rows_KW.shape[1] <= _EXACT_WIDTH:
        return _product(rows_KW, planes_WP)
    parts = zip(rows_KW.split(_EXACT_WIDTH, 1), planes_WP.split(_EXACT_WIDTH), strict=True)
    return torch.stack([_product(rows, planes) for rows, planes in parts]).sum(0)


def _product(rows_KW: Tensor, planes_WP: Tensor) -> Tensor:
    """int32 [K, P], of int8; the only way torch has to the processor's int8 instructions."""
    return torch._int_mm(rows_KW, planes_WP)  # pyright: ignore[reportPrivateImportUsage]


@cache
def _integer_products_are_exact() -> bool:
    """Whether torch sums products of int8 exactly on this processor: older ones saturate in 16 bits between."""
    rows_KW = torch.tensor([[-128, 127], [127, 127], [-128, -128]], dtype=torch.int8).repeat(5, 48)
    planes_WP = torch.tensor([[127, -128, 1], [127, -128, -1]], dtype=torch.int8).repeat(48, 1)
    try:
        found = _product(rows_KW, planes_WP).long()
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(found, rows_KW.long() @ planes_WP.long())
