"""Approximate search: rows in lists around centroids, of which a query reads the most promising.

An inverted file (Sivic and Zisserman 2003; FAISS's IndexIVFFlat), but of positions alone: the numbers stay in the
shards, where a flat search finds them as well, and a row has the same score whichever way it was found.

How far a list's rows may reach along a query q: if they scatter evenly around their centroid c with root mean square
distance r, their products with q have mean ⟨c, q⟩ and standard deviation ‖q‖·r/√W, so lists are tried in the order of

    ⟨c, q⟩ / ‖q‖ + SPREAD · r / √W

and for opponents in that of −q. How many are read was chosen when the index was built (engine/ivf_build.py).

Shapes: N rows of the index, L lists, W stored numbers a row, M rows read.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from engine.errors import CorruptIndex
from engine.store import IndexStore

CENTROID_TENSORS, LIST_TENSORS = "centroids", "lists"
LIST_TOP_K = 100  # a query for more rows reads them all: a list's share was chosen for the first ten
LEAST_LEFT = 0.5  # and so does one whose filter leaves fewer rows than this: the best of them may lie in any list
SPREAD = 2.0  # standard deviations


@dataclass(frozen=True)
class Centroids:
    """centroids_LW: float32, scales undone, in a unit of the index's own. radius_L: float64, of each list's rows."""

    centroids_LW: np.ndarray
    radius_L: np.ndarray

    def reach(self, query_W: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(float64 [L], float64 [L]): how far each list's rows may reach along the query, and against it.

        query_W: with the scales undone; its length changes nothing.
        """
        norm = float(np.linalg.norm(query_W)) or 1.0
        along_L = (self.centroids_LW @ (query_W / norm).astype(np.float32)).astype(np.float64)
        scatter_L = SPREAD / np.sqrt(len(query_W)) * self.radius_L
        return scatter_L + along_L, scatter_L - along_L

    def chosen(self, query_W: np.ndarray, probes: int, both: bool) -> np.ndarray:
        """int64, ascending: the lists to read. both: also those of the opponents."""
        sides = self.reach(query_W)[: 1 + both]
        return np.unique(np.concatenate([np.argpartition(-reach_L, probes - 1)[:probes] for reach_L in sides]))


class Lists:
    """The lists of an index. The positions stay on the disk, mapped: a list is read when a query probes it."""

    def __init__(self, centroids: Centroids, offsets_L: np.ndarray, file: Path) -> None:
        self.centroids = centroids
        self.offsets_L = offsets_L  # int64 [L + 1]
        self._file = file

    @cached_property
    def _positions(self) -> Any:
        return safe_open(self._file, framework="np").get_slice("positions")

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """int64 [M], ascending: the rows of these lists."""
        bounds = [(int(self.offsets_L[i]), int(self.offsets_L[i + 1])) for i in chosen]
        parts = [self._positions[start:stop] for start, stop in bounds if start < stop]  # an empty last one is refused
        return np.sort(np.concatenate(parts)).astype(np.int64) if parts else np.zeros(0, np.int64)


def check_lists(store: IndexStore) -> None:
    """Of an index that came from elsewhere. Raises CorruptIndex where a query would fail, or miss rows."""
    lists, record = open_lists(store), store.manifest.search
    if lists is None or record is None:
        return
    offsets_L, every_N = lists.offsets_L, np.arange(store.manifest.rows)
    fine = offsets_L.dtype == np.int64 and offsets_L[0] == 0 and (np.diff(offsets_L) >= 0).all()
    fine = fine and offsets_L[-1] == len(every_N)
    fine = fine and np.array_equal(lists.rows(np.arange(record.lists)), every_N)
    fine = fine and 1 <= record.probes <= record.lists and 0 <= record.recall_at_10 <= 1
    if not (fine and all(np.isfinite(v).all() for v in (lists.centroids.centroids_LW, lists.centroids.radius_L))):
        raise CorruptIndex("The lists do not hold every row once.")


def open_lists(store: IndexStore) -> Lists | None:
    """None where the index is searched row by row. Raises CorruptIndex."""
    record = store.manifest.search
    if record is None or record.kind == "flat":
        return None
    centroids = store.load_tensors(CENTROID_TENSORS)["centroids"]
    file = store.tensors_file(LIST_TENSORS)
    with safe_open(file, framework="np") as tensors:
        found = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - it is no dict
        expected = {"positions": [store.manifest.rows], "offsets": [record.lists + 1], "radius": [record.lists]}
        if found != expected or centroids.shape != (record.lists, store.manifest.width):
            raise CorruptIndex(f"The lists are not those of this index: their tensors are {found}.", file=file.name)
        offsets_L, radius_L = tensors.get_tensor("offsets"), tensors.get_tensor("radius")
    return Lists(Centroids(centroids, radius_L), offsets_L, file)
