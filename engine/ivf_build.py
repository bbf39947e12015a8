"""Lists for approximate search: centroids by k-means, every row assigned to the nearest, and a measurement.

How many lists a query reads is no guess: rows of the index that the centroids were not fitted to are asked about, each
with itself left out, and as many lists are read as the ten best and the ten worst rows need. Where that would be more
than MOST_SHARE of all rows, the index stays flat.

Everything is drawn with one seed and added up by one thread, so that a build that was killed goes on to the same bytes.

Shapes: N rows of the index, S rows of the sample, Q rows asked about, L lists, W stored numbers a row, K rows of a
piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from engine.cores import on_every_core
from engine.ivf import CENTROID_TENSORS, LIST_TENSORS, Centroids
from engine.manifest import SearchRecord
from engine.methods import GradientMethod, RepresentationMethod
from engine.plan import Plan
from engine.search import scan_all
from engine.shard import chunk_rows
from engine.store import IndexStore

IVF_ROWS = 1_000_000  # `auto`: up to so many rows are read for every query
TARGET, AT = 0.95, 10  # recall@10
CONFIDENCE_Z = 1.645  # the recall is above TARGET with 95 %, as far as the rows asked about tell
MOST_SHARE = 0.1  # of all rows; more of them in random order cost about what a scan does
QUERIES = 256
TOGETHER = 8  # queries scanned in one pass
PER_LIST, ITERATIONS = 16, 6  # of k-means: rows of the sample for each list
SAMPLE_NUMBERS = 1 << 27  # 512 MiB as float32
SEED = 0
_PRODUCTS = 1 << 22  # of rows with centroids, formed at a time: 16 MiB
_PIECES_AT_ONCE = 8  # a waiting query is answered after so many

Tick = Callable[[], object]


@dataclass(frozen=True)
class Chosen:
    """record None: flat, and nothing was tried."""

    record: SearchRecord | None = None
    warnings: tuple[str, ...] = ()


NO_LISTS = Chosen()


def lists_of(store: IndexStore, plan: Plan, tick: Tick) -> Chosen:
    """The lists of an index whose shards are all written, as its options and its method have it."""
    asked, method = plan.options.search, plan.method
    has_vectors = isinstance(method, GradientMethod | RepresentationMethod)
    if asked == "flat" or (asked == "auto" and plan.rows <= IVF_ROWS) or not has_vectors:
        return NO_LISTS
    if isinstance(method, GradientMethod) and not method.alike:
        return Chosen(None, (f"every query reads every row: {method.name}'s queries are unlike the rows stored",))
    record = build_lists(store, method.signed, tick)
    if record is None or record.kind == "ivf":
        return Chosen(record)
    return Chosen(
        record,
        (
            f"every query reads every row: lists with {record.share:.0%} of the rows held {record.recall_at_10:.0%} of "
            f"the ten best, less than the {TARGET:.0%} wanted",
        ),
    )


def list_products(plan: Plan) -> float:
    """Multiplications that making the lists takes: k-means, assignment, and the rows asked about; 0 without lists."""
    asked, rows, width = plan.options.search, plan.rows, plan.widths.stored
    if asked == "flat" or (asked == "auto" and rows <= IVF_ROWS) or not width:
        return 0.0
    lists = _list_count(rows, width)
    return float(width) * (lists * (PER_LIST * lists * ITERATIONS + rows) + QUERIES * rows)


def _list_count(rows: int, width: int) -> int:
    return max(1, min(round(4 * np.sqrt(rows)), SAMPLE_NUMBERS // (PER_LIST * width), rows // 8))


def build_lists(store: IndexStore, signed: bool, tick: Tick) -> SearchRecord | None:
    """Make the lists of an index whose shards are all written, or take up what a killed build left.

    signed: opponents are searched too. tick: called between pieces of the work, and may raise. None: no row differs
    from zero. Where the record says `flat` no lists are kept.
    """
    norms_N = store.norms()
    if not norms_N.any():
        return None
    rows = _Rows(store, float(norms_N.max()))
    asked_Q, sample_S, lists = _drawn(norms_N, store.manifest.width)
    with _one_thread():
        if not store.has_tensors(CENTROID_TENSORS):
            store.save_tensors(CENTROID_TENSORS, {"centroids": _centroids(rows, sample_S, lists, tick)})
        centroids_LW = store.load_tensors(CENTROID_TENSORS)["centroids"]
        if not store.has_tensors(LIST_TENSORS):
            store.save_tensors(LIST_TENSORS, _assigned(rows, centroids_LW, tick))
        made = store.load_tensors(LIST_TENSORS)
    centroids = Centroids(centroids_LW, made["radius"])
    record = _measured(rows, centroids, made, asked_Q, signed, tick, len(sample_S))
    if record.kind == "flat":
        store.drop_tensors(LIST_TENSORS)
        store.drop_tensors(CENTROID_TENSORS)
    return record


@dataclass(frozen=True)
class _Rows:
    """The stored rows with their scales undone, as parts of the longest: squares neither overflow nor vanish."""

    store: IndexStore
    unit: float

    def at(self, positions_K: np.ndarray) -> np.ndarray:
        """float32 [K, W]"""
        return self.store.stored(positions_K) * self._factors_W

    @cached_property
    def _factors_W(self) -> np.ndarray:
        """float32"""
        return (1 / (self.store.manifest.scales().astype(np.float64) * self.unit)).astype(np.float32)

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first position, float32 [K, W]): all rows."""
        step, rows = chunk_rows(self.store.manifest.width), self.store.manifest.rows
        for start in range(0, rows, step):
            yield start, self.at(np.arange(start, min(start + step, rows)))


def _drawn(norms_N: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(rows asked about [Q], rows for k-means [S], number of lists); none is in both, and only the second may be zero.

    4·√N lists, as FAISS's guidelines have it: fewer leave what belongs together scattered over many.
    """
    random, rows = np.random.default_rng(SEED), len(norms_N)
    lists = _list_count(rows, width)
    wanted = min(QUERIES, max(1, rows // 10))  # of a small index not too many: the centroids need rows as well
    drawn = random.choice(rows, min(rows, wanted + PER_LIST * lists), replace=False)
    asked_Q = drawn[:wanted][norms_N[drawn[:wanted]] > 0]
    return np.sort(asked_Q), drawn[wanted:], min(lists, len(drawn) - wanted)


def _centroids(rows: _Rows, sample_S: np.ndarray, lists: int, tick: Tick) -> np.ndarray:
    """float32 [L, W], by Lloyd's k-means from the sample's first rows; a centroid that nothing is near to stays."""
    sample_SW = torch.from_numpy(rows.at(sample_S))
    centroids_LW = sample_SW[:lists].clone()
    for _ in range(ITERATIONS):
        nearest_S = torch.from_numpy(_nearest(sample_SW, centroids_LW, tick)[0])
        sums_LW = torch.zeros_like(centroids_LW).index_add_(0, nearest_S, sample_SW)
        sizes_L1 = torch.bincount(nearest_S, minlength=lists)[:, None]
        centroids_LW = torch.where(sizes_L1 > 0, sums_LW / sizes_L1.clamp(min=1), centroids_LW)
    return centroids_LW.numpy()


def _nearest(rows_KW: Tensor, centroids_LW: Tensor, tick: Tick) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [K], float64 [K]): each row's nearest centroid, ties to the first, and its squared distance.

    FAISS does the same on one thread in several times the time: its wheel has another matrix product.
    """
    half_L = centroids_LW.square().sum(1) / 2

    def of_piece(piece_KW: Tensor) -> tuple[Tensor, Tensor]:
        products = torch.addmm(-half_L, piece_KW, centroids_LW.T).max(1)
        return products.indices, (piece_KW.square().sum(1) - 2 * products.values).clamp(min=0).double()

    found: list[tuple[Tensor, Tensor]] = []
    pieces = rows_KW.split(max(1, _PRODUCTS // len(centroids_LW)))
    for start in range(0, len(pieces), _PIECES_AT_ONCE):
        found += on_every_core(of_piece, pieces[start : start + _PIECES_AT_ONCE])
        tick()
    nearest, squares = zip(*found, strict=True)
    return torch.cat(nearest).numpy(), torch.cat(squares).numpy()


def _assigned(rows: _Rows, centroids_LW: np.ndarray, tick: Tick) -> dict[str, np.ndarray]:
    """positions uint32 [N], list by list and ascending in each; offsets int64 [L + 1]; radius float64 [L]: root mean
    square distance of a list's rows from its centroid."""
    count, lists = rows.store.manifest.rows, len(centroids_LW)
    nearest_N = np.empty(count, np.int32)
    squares_L = np.zeros(lists)
    for start, piece_KW in rows.pieces():
        nearest_K, squares_K = _nearest(torch.from_numpy(piece_KW), torch.from_numpy(centroids_LW), tick)
        nearest_N[start : start + len(piece_KW)] = nearest_K
        squares_L += np.bincount(nearest_K, squares_K, lists)
    sizes_L = np.bincount(nearest_N, minlength=lists)
    return {
        "positions": np.argsort(nearest_N, kind="stable").astype(np.uint32),
        "offsets": np.concatenate([[0], np.cumsum(sizes_L)]),
        "radius": np.sqrt(squares_L / np.maximum(sizes_L, 1)),
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


# --- how many lists have to be read ---


@dataclass(frozen=True)
class _Asked:
    """Of the rows asked about. places_QL: how many lists come before each, for proponents or for opponents, whichever
    is less. needs: for each side and query the places of the lists that its best rows lie in."""

    places_QL: np.ndarray
    sizes_L: np.ndarray
    needs: tuple[list[np.ndarray], ...]

    def recall(self, probes: int, z: float = 0.0) -> float:
        """The lower side's, z standard errors below its mean; 0 where there was nothing to find."""
        sides = []
        for needs in self.needs:
            found = np.array([np.mean(places < probes) for places in needs])
            sides.append(found.mean() - z * found.std() / np.sqrt(len(found)))
        return float(min(sides, default=0.0))

    def share(self, probes: int) -> float:
        return float(((self.places_QL < probes) @ self.sizes_L).mean() / self.sizes_L.sum())


def _measured(
    rows: _Rows,
    centroids: Centroids,
    made: dict[str, np.ndarray],
    asked_Q: np.ndarray,
    signed: bool,
    tick: Tick,
    sample: int,
) -> SearchRecord:
    asked = _ask(rows, centroids, made, asked_Q, signed, tick)
    lists = len(asked.sizes_L)
    # Both grow with the number of lists read.
    within = _last(lists, lambda probes: asked.share(probes) <= MOST_SHARE)
    short = _last(within, lambda probes: asked.recall(probes, CONFIDENCE_Z) < TARGET)
    kind = "ivf" if short < within else "flat"
    probes = max(1, min(short + 1, within))
    return SearchRecord(
        kind, lists, probes, asked.recall(probes), asked.share(probes), len(asked.places_QL), sample
    )  # fmt: skip


def _last(highest: int, holds: Callable[[int], bool]) -> int:
    """The largest number from 1 to `highest` for which it holds, given that it holds up to some; 0: for none."""
    low, high = 0, highest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _ask(
    rows: _Rows, centroids: Centroids, made: dict[str, np.ndarray], asked_Q: np.ndarray, signed: bool, tick: Tick
) -> _Asked:
    sizes_L = np.diff(made["offsets"])
    list_N = np.empty(len(made["positions"]), np.int64)
    list_N[made["positions"]] = np.repeat(np.arange(len(sizes_L)), sizes_L)
    places, needs = [], ([], []) if signed else ([],)
    for start in range(0, len(asked_Q), TOGETHER):
        positions_Q = asked_Q[start : start + TOGETHER]
        query_QW = rows.at(positions_Q).astype(np.float64)
        query_QW /= np.linalg.norm(query_QW, axis=1, keepdims=True)
        scores_QN = scan_all(rows.store, query_QW / rows.store.manifest.scales())
        for query_W, position, scores_N in zip(query_QW, positions_Q, scores_QN, strict=True):
            places_L = _places(centroids, query_W, signed)
            places.append(places_L)
            others_N = np.delete(np.arange(len(scores_N)), position)
            for side, sign in zip(needs, (1.0, -1.0), strict=False):
                best = _best(sign * scores_N, others_N, signed)
                if len(best):
                    side.append(places_L[list_N[best]])
        tick()
    return _Asked(np.stack(places), sizes_L, tuple(side for side in needs if side))


def _places(centroids: Centroids, query_W: np.ndarray, both: bool) -> np.ndarray:
    """int64 [L]: a list is read by all queries that read more lists than this."""
    sides = centroids.reach(query_W)[: 1 + both]
    places = [np.argsort(np.argsort(-reach_L, kind="stable"), kind="stable") for reach_L in sides]
    return np.min(places, axis=0)


def _best(scores_N: np.ndarray, others_N: np.ndarray, signed: bool) -> np.ndarray:
    """The AT highest of others_N, ties to the lower position; of a signed method only what an answer shows."""
    scores_M = scores_N[others_N]
    if len(scores_M) > AT:
        others_N = others_N[scores_M >= np.partition(scores_M, -AT)[-AT]]
    best = others_N[np.lexsort((others_N, -scores_N[others_N]))[:AT]]
    return best[scores_N[best] > 0] if signed else best
