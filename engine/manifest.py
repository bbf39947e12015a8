"""manifest.json: what an index is made of, readable without the database.

Dimensions: N rows, C checkpoints, D numbers a row (all blocks, one after another), K numbers a row on the disk:
D, or fewer where a learned sketch follows (engine/compression.py).
"""

from __future__ import annotations

import dataclasses
import json
import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from engine.config import fingerprint
from engine.durable import write_durably
from engine.errors import CorruptIndex, FingerprintMismatch, IndexUnavailable
from engine.integrity import MANIFEST_FILE, SCHEMA_VERSION, sealed, unsealed

CALIBRATED_MAXIMUM = 256.0  # float16 reaches 65,504: rows outside the calibration sample may be 255 times larger
SCALE_EXPONENT = 100  # scales lie between 2^-100 and 2^100: they and their inverses are float32 numbers

CHECKED = ConfigDict(extra="forbid", strict=True)  # how the file is read: what is of another type is damage

StoredType = Literal["int8", "float16", "float32"]
NUMBER_BYTES: dict[str, int] = {"int8": 1, "float16": 2, "float32": 4}
ROW_SCALE_BYTES = 4  # of int8: every row has a scale of its own
State = Literal["building", "ready"]


@dataclass(frozen=True)
class Block:
    """One tracked module of one checkpoint: rows × cols numbers, row-major, from `offset` on.

    The disk holds value × scale; `checkpoint` counts into Manifest.checkpoints.
    """

    __pydantic_config__ = CHECKED

    checkpoint: int
    module: str
    rows: int
    cols: int
    offset: int
    scale: float = 1.0

    @property
    def stop(self) -> int:
        return self.offset + self.rows * self.cols


def lay_out(modules: Iterable[tuple[str, int, int]], checkpoints: int) -> tuple[Block, ...]:
    """One block for each checkpoint and (module, rows, cols), checkpoint by checkpoint, unscaled."""
    blocks: list[Block] = []
    shapes = tuple(modules)
    for checkpoint in range(checkpoints):
        for module, rows, cols in shapes:
            blocks.append(Block(checkpoint, module, rows, cols, blocks[-1].stop if blocks else 0))
    return tuple(blocks)


def row_bytes(numbers: int, dtype: str) -> int:
    """What a row's stored numbers take, with their scale. Self-scores, norm and length come on top (12 + 4 C)."""
    return numbers * NUMBER_BYTES[dtype] + (ROW_SCALE_BYTES if dtype == "int8" else 0)


def block_scale(largest: float) -> float:
    """The fixed scale for a block whose largest |value| in a calibration sample is `largest`.

    A power of two, so that scaling itself rounds nothing; 1 for a block that is all zero.
    """
    if not math.isfinite(largest) or largest <= 0:
        return 1.0
    exponent = math.floor(math.log2(CALIBRATED_MAXIMUM) - math.log2(largest))
    return 2.0 ** max(-SCALE_EXPONENT, min(SCALE_EXPONENT, exponent))


@dataclass(frozen=True)
class Compression:
    """The learned sketch that the disk holds instead of the blocks. width: K. rows: its basis was fitted to so many."""

    __pydantic_config__ = CHECKED

    width: int
    rows: int
    scale: float = 1.0


@dataclass(frozen=True)
class SearchRecord:
    """How a large index is searched, and what that was chosen by (engine/ivf_build.py).

    kind: `ivf`, or `flat` where lists did not find enough while they were `share` of the rows. lists: how many there
    are; probes: how many a query reads on each side. recall_at_10: the lower of both sides, by `queries` rows that were
    asked about; share: of the rows, read for a query on average. sample: rows that the centroids were fitted to.
    """

    __pydantic_config__ = CHECKED

    kind: Literal["flat", "ivf"]
    lists: int
    probes: int
    recall_at_10: float
    share: float
    queries: int
    sample: int


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: rows [start, stop). checksums: path below the index directory → blake2b-256."""

    __pydantic_config__ = CHECKED

    name: str
    start: int
    stop: int
    bytes: int
    checksums: dict[str, str]


@dataclass(frozen=True)
class Manifest:
    """Everything about an index but its numbers.

    The first seven fields are its identity: a build is resumed only where they agree (block scales
    apart, which are measured once and then kept). plan holds token budget, threads, kernels and
    `shard_rows`, the rows in each shard but the last. curvature: path → checksum.
    """

    __pydantic_config__ = CHECKED

    method: str
    fingerprints: dict[str, str]
    blocks: tuple[Block, ...]
    rows: int
    checkpoints: tuple[str, ...]
    dtype: StoredType
    plan: dict[str, Any]
    options: dict[str, Any] = field(default_factory=dict)
    serves: tuple[str, ...] = ()
    coverage: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    timings_s: dict[str, float] = field(default_factory=dict)
    curvature: dict[str, str] = field(default_factory=dict)
    shards: tuple[ShardRecord, ...] = ()
    state: State = "building"
    revision: str = ""
    schema_version: int = SCHEMA_VERSION
    compression: Compression | None = None
    search: SearchRecord | None = None

    def __post_init__(self) -> None:
        if self.rows < 1 or not self.checkpoints or not self.blocks:
            raise ValueError("an index needs at least one row, one checkpoint and one block")
        if self.dtype not in NUMBER_BYTES:
            raise ValueError(f"dtype is {self.dtype!r}: choose float16, float32 or int8")
        if self.compression and not 1 <= self.compression.width <= self.dims:
            raise ValueError(f"a sketch of {self.compression.width} numbers learned from {self.dims}")
        if int(self.plan.get("shard_rows", 0)) < 1:
            raise ValueError("plan['shard_rows'] must be 1 or more")
        self._check_blocks()

    def _check_blocks(self) -> None:
        offset = previous = 0
        for block in self.blocks:
            if block.offset != offset or block.stop <= offset:
                raise ValueError(f"block {block.module!r} starts at {block.offset}, expected {offset}")
            if block.checkpoint < previous:
                raise ValueError(f"block {block.module!r}: blocks must be ordered by checkpoint")
            if not 0 <= block.checkpoint < len(self.checkpoints):
                raise ValueError(f"block {block.module!r} names a checkpoint that is not there: {block.checkpoint}")
            if not 2.0**-SCALE_EXPONENT <= block.scale <= 2.0**SCALE_EXPONENT:
                raise ValueError(f"block {block.module!r} has scale {block.scale}")
            offset, previous = block.stop, block.checkpoint

    @property
    def dims(self) -> int:
        """D"""
        return self.blocks[-1].stop

    @property
    def width(self) -> int:
        """K"""
        return self.compression.width if self.compression else self.dims

    @property
    def shard_rows(self) -> int:
        return int(self.plan["shard_rows"])

    @property
    def shard_count(self) -> int:
        return -(-self.rows // self.shard_rows)

    def shard_bounds(self, number: int) -> tuple[int, int]:
        """[start, stop) of shard `number`."""
        if not 0 <= number < self.shard_count:
            raise IndexError(f"shard {number} of {self.shard_count}")
        start = number * self.shard_rows
        return start, min(start + self.shard_rows, self.rows)

    def scales(self) -> np.ndarray:
        """float32 [K]: what each stored number was multiplied by (in int8 each row by its own scale, too)."""
        if self.compression:
            return np.full(self.compression.width, self.compression.scale, np.float32)
        return np.repeat(np.array([b.scale for b in self.blocks], np.float32), [b.rows * b.cols for b in self.blocks])

    def checkpoint_columns(self) -> list[slice]:
        """For each checkpoint, which of the D numbers are its own."""
        of_checkpoint = [block.checkpoint for block in self.blocks]
        edges = [bisect_left(of_checkpoint, c) for c in range(len(self.checkpoints) + 1)]
        offsets = [block.offset for block in self.blocks] + [self.dims]
        return [slice(offsets[first], offsets[last]) for first, last in pairwise(edges)]

    def with_scales(self, scales: Sequence[float]) -> Manifest:
        """One scale a block, or the one of the learned sketch."""
        if self.compression:
            (scale,) = scales
            return dataclasses.replace(self, compression=dataclasses.replace(self.compression, scale=float(scale)))
        blocks = tuple(dataclasses.replace(b, scale=float(s)) for b, s in zip(self.blocks, scales, strict=True))
        return dataclasses.replace(self, blocks=blocks)

    def identity(self) -> dict[str, Any]:
        """What has to agree before a build is resumed, as plain JSON values, one key a comparable fact."""
        facts: dict[str, Any] = {"method": self.method, "rows": self.rows, "dtype": self.dtype}
        facts["checkpoints"] = list(self.checkpoints)
        facts["blocks"] = [dataclasses.astuple(b)[:-1] for b in self.blocks]
        if self.compression:
            facts["compression"] = dataclasses.astuple(self.compression)[:-1]
        for group, values in (("fingerprints", self.fingerprints), ("plan", self.plan), ("options", self.options)):
            facts |= {f"{group}.{key}": value for key, value in values.items()}
        return json.loads(json.dumps(facts))

    def require_same_build(self, other: Manifest) -> None:
        """Raise FingerprintMismatch naming every fact in which the two builds differ."""
        mine, theirs = self.identity(), other.identity()
        differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if differing:
            raise FingerprintMismatch(
                f"The directory holds another index build; these differ: {', '.join(differing)}.",
                remedy="Resume with the model, dataset and options the build began with, or delete the index.",
                differing=differing,
            )

    def require_fingerprints(self, expected: dict[str, str]) -> None:
        """Raise FingerprintMismatch naming each of `expected` that this index does not share."""
        differing = sorted(key for key, value in expected.items() if self.fingerprints.get(key) != value)
        if differing:
            detail = f"The index was built with another {', '.join(differing)} than the query would use."
            raise FingerprintMismatch(detail, differing=differing)

    def computed_revision(self) -> str:
        """The name of these exact contents: the same rows, model and plan always give the same one."""
        shards = [(s.name, s.start, s.stop, s.checksums) for s in self.shards]
        parts = (self.schema_version, self.method, self.fingerprints, self.blocks, self.curvature, shards)
        return fingerprint(*parts, *(part for part in (self.compression, self.search) if part))

    def to_json(self) -> str:
        values = {"dims": self.dims} | dataclasses.asdict(self)
        for name in ("compression", "search"):
            if values[name] is None:
                del values[name]
        return sealed(values)


_MANIFEST = TypeAdapter(Manifest)


def parse_manifest(text: str) -> Manifest:
    """Raises IndexUnavailable for another schema version, CorruptIndex for anything else unexpected."""
    try:
        values = dict(json.loads(text))
        version = values.get("schema_version")
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(str(error)) from error
    if version != SCHEMA_VERSION:
        raise IndexUnavailable(
            f"{MANIFEST_FILE} has schema version {repr(version)[:100]}; this version of Whence reads {SCHEMA_VERSION}.",
            remedy="Build the index again, or use the version of Whence that wrote it.",
        )
    try:
        return _from_values(unsealed(values))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _damaged(f"{'.'.join(map(str, first['loc']))[:200]}: {first['msg']}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise _damaged(str(error)) from error


def _from_values(values: dict[str, Any]) -> Manifest:
    dims = values.pop("dims")
    manifest = _MANIFEST.validate_json(json.dumps(values))
    if manifest.dims != dims:
        raise ValueError(f"blocks add up to {manifest.dims} numbers a row, not {dims}")
    return manifest


def _damaged(reason: str) -> CorruptIndex:
    return CorruptIndex(
        f"{MANIFEST_FILE} cannot be read: {reason[:500]}.",
        remedy="Delete the index and build it again.",
        file=MANIFEST_FILE,
    )


def read_manifest(path: Path) -> Manifest:
    """The manifest of the index directory `path`, whatever its state. Raises IndexUnavailable, CorruptIndex."""
    try:
        return parse_manifest((path / MANIFEST_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise IndexUnavailable(f"There is no index in {path.name!r}: {MANIFEST_FILE} is missing.") from error
    except UnicodeDecodeError as error:
        raise _damaged(str(error)) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest of the index directory `path`, atomically. Raises StorageFull."""
    text = manifest.to_json().encode()
    write_durably(path / MANIFEST_FILE, lambda sink: sink.write(text))
