"""The tokens of many rows in few bytes: four a token, in one array, in a file once they are many.

As Python integers they take forty bytes a token for as long as a build lasts: a hundred million would not fit.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, overload

import numpy as np
from numpy.typing import NDArray

from engine.curvature.labels import row_key
from engine.encoded import Encoded

IN_MEMORY = 64 * 2**20  # bytes of tokens held in memory; more lie in a temporary file, mapped
KEY_BYTES = 8


@dataclass(frozen=True)
class FlatRow:
    """A row's ids, int32 [T], and which of them are targets, bool [T]."""

    ids: NDArray[np.int32]
    targets: NDArray[np.bool_]

    @property
    def target_count(self) -> int:
        return int(np.count_nonzero(self.targets))


class FlatRows(Sequence[FlatRow]):
    """Position → row; each is made when it is asked for. codes: an id, or its complement (below 0) at a target."""

    def __init__(self, codes: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        self._codes = codes
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> FlatRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[FlatRow]: ...
    def __getitem__(self, index: int | slice) -> FlatRow | list[FlatRow]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        position = range(len(self))[index]  # IndexError beyond the last
        start = int(self._ends[position - 1]) if position else 0
        codes_T = np.array(self._codes[start : int(self._ends[position])])
        targets_T = codes_T < 0
        return FlatRow(np.where(targets_T, ~codes_T, codes_T), targets_T)

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self._ends, prepend=0)


class RowKeys(Sequence[str]):
    """Position → content key (`row_key`), kept as the bytes it spells."""

    def __init__(self, spelled: bytes) -> None:
        self._bytes = spelled

    def __len__(self) -> int:
        return len(self._bytes) // KEY_BYTES

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        start = range(len(self))[index] * KEY_BYTES
        return self._bytes[start : start + KEY_BYTES].hex()


class RowsWriter:
    """Takes rows one by one. in_memory: bytes of tokens that are held before they go to a file (None = IN_MEMORY)."""

    def __init__(self, in_memory: int | None = None) -> None:
        self._in_memory = IN_MEMORY if in_memory is None else in_memory
        self._tail = array("i")
        self._ends = array("q")
        self._keys = bytearray()
        self._file: IO[bytes] | None = None
        self._tokens = 0

    def add(self, row: Encoded) -> None:
        self._tail.extend(~token if target else token for token, target in zip(row.ids, row.targets, strict=True))
        self._tokens += len(row.ids)
        self._ends.append(self._tokens)
        self._keys += bytes.fromhex(row_key(row.ids))
        if len(self._tail) * self._tail.itemsize > self._in_memory:
            self._spill()

    def finished(self) -> tuple[FlatRows, RowKeys]:
        """Raises OSError when the disk is full. A file goes with the last use of its rows."""
        if self._file is None:
            codes = np.frombuffer(self._tail, np.int32)
        else:
            codes = np.memmap(self._spill(), np.int32, mode="r")
        return FlatRows(codes, np.frombuffer(self._ends, np.int64)), RowKeys(bytes(self._keys))

    def _spill(self) -> IO[bytes]:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="whence-rows-")  # noqa: SIM115 - it lives as long as its map
        self._file.write(self._tail)
        self._file.flush()
        self._tail = array("i")
        return self._file
