"""Finished shards are encoded, hashed and written on a thread of their own, while the next one is computed.

Shapes: N rows of a shard, W stored numbers a row, C checkpoints.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from torch import Tensor

from engine.batching import on_device
from engine.features import check_finite
from engine.store import IndexStore

_WAITING = 1  # shards that are being written while the next is computed: each holds its numbers in memory
_AHEAD = 2  # batches that a GPU may be given before it has finished them


class ShardRows:
    """A shard's numbers as they come to be, on the model's device: they are copied to the host when the shard is whole.

    vectors_NW, self_NC and left_N (1 − mean probability of a row's targets) in float32.
    """

    def __init__(self, positions: range, width: int, checkpoints: int, device: torch.device) -> None:
        self.positions = positions
        self.vectors_NW = torch.zeros(len(positions), width, device=device)
        self.self_NC = torch.zeros(len(positions), checkpoints, device=device)
        self.left_N = torch.zeros(len(positions), device=device)
        self._queued: deque[torch.cuda.Event] = deque()

    def places(self, slots: tuple[int, ...]) -> Tensor:
        """Rows of the shard, as an index on its device."""
        return on_device(torch.tensor(slots), self.vectors_NW.device)

    def batch_done(self, rows: Tensor) -> None:
        """Raises NonFiniteGradient where that can be seen without waiting for a GPU.

        On a GPU: waits until no more than a few batches are queued, so that a query is not behind a whole shard.
        """
        if self.vectors_NW.device.type != "cuda":
            check_finite(self.self_NC[rows].double().sum(1), tuple(self.positions[i] for i in rows.tolist()))
            return
        self._queued.append(torch.cuda.Event())
        self._queued[-1].record()
        if len(self._queued) > _AHEAD:
            self._queued.popleft().synchronize()


@dataclass(frozen=True)
class _Host:
    """Where a GPU's shards are copied to: page-locked, so that the copy runs beside the next shard's work."""

    device: torch.device
    stream: torch.cuda.Stream

    def copied(self, tensor: Tensor, ready: torch.cuda.Event) -> Tensor:
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(ready)
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            copy.copy_(tensor, non_blocking=True)
            tensor.record_stream(self.stream)
            self.stream.synchronize()
        return copy


class ShardWriter:
    """Writes shards in the order in which they are given. A context manager.

    A shard counts once the store has recorded it, as ever: what is cancelled or killed meanwhile resumes there. What
    goes wrong in a write is raised by the next `write` or `check`, or at the end. On leaving, also by an error, the
    shards that were given are finished first.
    """

    def __init__(self, store: IndexStore, device: torch.device) -> None:
        self._store = store
        self._host = _Host(device, torch.cuda.Stream(device)) if device.type == "cuda" else None  # pyright: ignore[reportArgumentType]
        self._pending: deque[Future[None]] = deque()
        # FAISS counts threads for each calling thread: one, beside the build's own
        self._thread = ThreadPoolExecutor(1, "shard-writer", initializer=lambda: faiss.omp_set_num_threads(1))

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            while self._pending:
                self._pending.popleft().result()

    def write(self, number: int, rows: ShardRows, lengths_N: np.ndarray) -> None:
        """Returns at once, unless the shard before is still being written. `rows` is the writer's from then on."""
        while len(self._pending) >= _WAITING:
            self._pending.popleft().result()
        ready = torch.cuda.Event() if self._host else None
        if ready is not None:
            ready.record()
        self._pending.append(self._thread.submit(self._write, number, rows, lengths_N, ready))

    def check(self) -> None:
        """Raise what a write has failed with; does not wait."""
        while self._pending and self._pending[0].done():
            self._pending.popleft().result()

    def _write(self, number: int, rows: ShardRows, lengths_N: np.ndarray, ready: torch.cuda.Event | None) -> None:
        vectors_NW, self_NC = rows.vectors_NW, rows.self_NC
        if self._host is not None and ready is not None:
            vectors_NW, self_NC = self._host.copied(vectors_NW, ready), self._host.copied(self_NC, ready)
        check_finite(self_NC.double().sum(1), tuple(rows.positions))
        self._store.write_shard(number, vectors_NW.numpy(), self_NC.numpy(), lengths_N)
