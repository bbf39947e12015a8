"""Every row's score, in one pass over a shard's stored bytes.

FAISS keeps the bytes, and gives all scores of a flat index only through a heap of all rows, which costs several times
what reading them does (docs/decisions.md 52). Here a piece of the rows that fits the processor's cache is made ready
once and multiplied with every query that waits:

    float32   as it is stored
    float16   widened to float32
    int8      whole numbers times whole numbers: the query is cut into three planes of int8, their products with the
              stored bytes are summed exactly by the processor's own instructions for that, and every score is the same
              on every machine

Each query is multiplied by itself (or exactly), so its scores do not depend on who else asks.

Dimensions: Q queries, N rows of the shard, W stored numbers a row, K rows of a piece, P planes of all queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor

from engine.errors import NonFiniteGradient
from engine.shard import LEVELS, Shard

# 4 MiB as float32: smaller ones are nearer to the processor, but their threads wait for the interpreter.
PIECE_NUMBERS = 1 << 20
_PART_PIECES = 32  # 32 MiB of int8
PLANE_BITS, PLANES = 8, 3  # of a query: 24 bits, as many as float32 has
_EXACT_WIDTH = 1 << 16  # columns summed at a time: 254 · 128 · 2¹⁶ stays below 2³¹


class Queries:
    """Queries made ready once for any number of shards. query_QW: float64, finite as float32, in stored units."""

    def __init__(self, query_QW: np.ndarray) -> None:
        self.query_QW = query_QW

    def __len__(self) -> int:
        return len(self.query_QW)

    @cached_property
    def singles(self) -> list[Tensor]:
        """float32 [W], each in memory of its own: where a query begins in memory, its sums' last bit may depend on."""
        return [torch.from_numpy(query_W.astype(np.float32)).clone() for query_W in self.query_QW]

    @cached_property
    def whole(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 [Q, W], float64 [Q]: query ≈ whole numbers of 24 bits · unit, off by half a unit at most."""
        largest_Q = np.abs(self.query_QW).max(1, initial=0.0)
        units_Q = np.where(largest_Q > 0, largest_Q, 1.0) / (LEVELS << (PLANE_BITS * (PLANES - 1)))
        return np.rint(self.query_QW / units_Q[:, None]).astype(np.int64), units_Q

    @cached_property
    def planes(self) -> list[Tensor]:
        """int8 [W, P], what `_products` multiplies the bytes with: one of all planes, or each by itself."""
        planes_PW = _planes(self.whole[0])
        each = [planes_PW] if len(planes_PW) > _SINGLE_COLUMNS else planes_PW.split(1)
        # in new memory: of a transposed one whose side is 1 torch's product reads beyond
        return [torch.empty(self.query_QW.shape[1], len(few), dtype=torch.int8).copy_(few.T) for few in each]


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
    found_QN = torch.empty(len(queries), len(codes_NW))
    start = 0
    for scores_QK in pieces:
        stop = start + scores_QK.shape[1]
        if row_scales_N is not None:
            scores_QK.mul_(torch.from_numpy(row_scales_N[start:stop]))
        found_QN[:, start:stop] = scores_QK
        start = stop
    if not np.isfinite(found_QN.numpy()).all():
        raise NonFiniteGradient(f"A score overflows float32 in {where}.")
    return found_QN.numpy()


def _float_pieces(codes_NW: np.ndarray, queries: Queries) -> Iterator[Tensor]:
    """float32 [Q, K], piece by piece."""
    for piece_KW in _widened(codes_NW):
        scores_QK = torch.empty(len(queries), len(piece_KW))
        for query_W, scores_K in zip(queries.singles, scores_QK, strict=True):
            torch.mv(piece_KW, query_W, out=scores_K)
        yield scores_QK


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


def _exact_pieces(codes_NW: np.ndarray, queries: Queries) -> Iterator[Tensor]:
    """float64 [Q, K], piece by piece, exact for the query rounded to 24 bits of its largest number."""
    whole_QW, units_Q = queries.whole
    units_Q1 = torch.from_numpy(units_Q).unsqueeze(1)
    # what is stored as c stands for c − 127: so many times each query number too much
    too_much_Q1 = torch.from_numpy(LEVELS * whole_QW.sum(1, keepdims=True))
    codes = torch.from_numpy(codes_NW)
    rows = max(1, 4 * PIECE_NUMBERS // codes.shape[1])  # a quarter of float32's bytes
    for group in codes.split(rows * _FINISHED_AT_ONCE):
        sums_PK = _products(group.split(rows), queries.planes)
        low_QK, middle_QK, high_QK = sums_PK.view(len(queries), PLANES, -1).unbind(1)
        # whole numbers below 2⁵³ throughout: float64 adds them exactly, in whatever order
        whole_QK = high_QK.double().mul_(1 << 2 * PLANE_BITS).add_(middle_QK, alpha=1 << PLANE_BITS).add_(low_QK)
        yield whole_QK.sub_(too_much_Q1).mul_(units_Q1)


_FINISHED_AT_ONCE = 8  # pieces: what follows the products is many small steps
# Up to so many columns are faster one by one, the rows lying in the cache: any narrow matrix takes as long as twelve.
_SINGLE_COLUMNS = 12


def _planes(whole_QW: np.ndarray) -> Tensor:
    """int8 [Q·3, W]: query = Σ_p plane_p · 256^p. What is whole is at most 127 · 256²: the highest plane fits too."""
    left_QW = whole_QW
    planes = []
    for _ in range(PLANES):
        low_QW = (left_QW + 128) % 256 - 128
        planes.append(low_QW)
        left_QW = (left_QW - low_QW) >> PLANE_BITS
    return torch.from_numpy(np.stack(planes, 1).astype(np.int8).reshape(-1, whole_QW.shape[1]))


def _products(pieces: Sequence[Tensor], planes: list[Tensor]) -> Tensor:
    """int32 [P, K] of all pieces' rows (int64 of wide ones), exact."""
    if pieces[0].shape[1] > _EXACT_WIDTH:
        columns = zip(*(piece.split(_EXACT_WIDTH, 1) for piece in pieces), strict=True)
        parts = zip(columns, *(some.split(_EXACT_WIDTH) for some in planes), strict=True)
        return torch.stack([_products([p.contiguous() for p in some], few).long() for some, *few in parts]).sum(0)
    if len(planes) == 1:
        return torch.cat([_integer_product(piece, planes[0]) for piece in pieces]).T.contiguous()
    sums_PK = torch.empty(len(planes), sum(map(len, pieces)), dtype=torch.int32)
    sums = [sums_K1.split(len(pieces[0])) for sums_K1 in sums_PK.unsqueeze(2)]
    for piece, *outs in zip(pieces, *sums, strict=True):
        for plane_W1, out_K1 in zip(planes, outs, strict=True):
            _integer_product(piece, plane_W1, out_K1)
    return sums_PK


def _integer_product(codes_KW: Tensor, planes_WP: Tensor, out_KP: Tensor | None = None) -> Tensor:
    """int32 [K, P]; the only way torch has to the processor's int8 instructions."""
    return torch._int_mm(codes_KW, planes_WP, out=out_KP)  # pyright: ignore[reportPrivateImportUsage]


@cache
def _integer_products_are_exact() -> bool:
    """Whether torch sums products of bytes exactly on this processor: older ones saturate in 16 bits between."""
    codes_KW = torch.tensor([[0, 254], [254, 254], [254, 0]], dtype=torch.uint8).repeat(5, 48)
    planes_WP = torch.tensor([[127, -128, 1], [127, -128, -1]], dtype=torch.int8).repeat(48, 1)
    try:
        found = [_integer_product(codes_KW, planes) for planes in (planes_WP, planes_WP[:, :1].clone())]
    except (RuntimeError, AttributeError):
        return False
    expected_KP = codes_KW.long() @ planes_WP.long()
    return torch.equal(found[0].long(), expected_KP) and torch.equal(found[1].long(), expected_KP[:, :1])
