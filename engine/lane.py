"""One thread owns the device and the models on it.

Queries wait in a bounded queue that groups of callers share fairly (queueing.py); those for the same index that wait
together are answered together, as many as a budget of tokens allows; an idle lane may wait for company for some
milliseconds (gathering.py). Builds run on the same thread and, between two batches, let every waiting query overtake.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import faiss
import numpy as np
import torch

from engine.answer import attribute_each
from engine.build import build_index
from engine.config import IndexConfig, ModelConfig, fingerprint
from engine.dataset import open_dataset
from engine.dataset.filtering import RowFilter
from engine.ensemble import self_influence
from engine.errors import EngineError, InvalidOption, QueueFull, ShuttingDown
from engine.estimate import estimate_index
from engine.gathering import Gathering
from engine.memory import leaving_nothing
from engine.methods import GradientMethod, ReplayMethod, RowMethod, get_method
from engine.methods.specs import method_specs
from engine.question import generate_only
from engine.queueing import FairQueue, NoRoom
from engine.residents import IndexKey, Residents
from engine.self_influence import placed, ranked
from engine.store import IndexStore
from engine.tally import Tally
from engine.types import (
    AskOptions,
    Attribution,
    CheckpointFn,
    Generated,
    IndexEstimate,
    IndexInfo,
    MethodSpec,
    ModelInfo,
    Progress,
    Query,
    SelfInfluence,
)

T = TypeVar("T")

# Queries wait before they are tokenised. English is four bytes a token, code and other scripts about three; exact
# lengths bound the passes themselves (engine/rows.py).
_BYTES_PER_TOKEN = 3


@dataclass
class _Question:
    """A waiting query."""

    key: IndexKey
    model: ModelConfig
    query: Query
    options: AskOptions
    future: Future[Attribution]
    arrived: float = field(default_factory=time.perf_counter)


@dataclass
class _Generation:
    """A prompt that waits for what the model says to it. Its key is no index's: nothing else is of its batch."""

    key: tuple[str, Literal["generate"]]
    model: ModelConfig
    query: Query
    future: Future[Generated]
    arrived: float = field(default_factory=time.perf_counter)


_Waiting = _Question | _Generation


class Lane:
    """device: as torch names it, or `auto`. max_queue: queries that may wait; max_queue_per_group: those of one group,
    None: as many. max_batch: queries answered together at most; batch_tokens: their tokens, about, at most (one longer
    query is answered alone). model_bytes: memory for loaded models (residents.py)."""

    def __init__(
        self,
        device: str = "cpu",
        threads: int | None = None,
        max_queue: int = 64,
        max_batch: int = 32,
        max_queue_per_group: int | None = None,
        model_bytes: int | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        self.device = _resolve_device(device)
        self._threads = threads or (1 if self.device == "cpu" else None)
        self._max_queue = max_queue
        self._questions: FairQueue[_Waiting] = FairQueue(
            max_queue, max_queue_per_group or max_queue, max_batch, _is_withdrawn, budget=batch_tokens
        )
        self._max_batch = max_batch
        self._gathering = Gathering()
        self._errands: deque[Callable[[], None]] = deque()
        self._builds: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._closed = False
        self._residents = Residents(self.device, model_bytes)
        self._tally = Tally()
        self._stepped_aside = False
        # What Retry-After is made of: running mean of what a batch takes, with what the lane did since the one before
        # it while queries waited (a build's own batch, loading a model).
        self._mean_s = 0.5
        self._last_batch_ended = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name=f"lane-{self.device}", daemon=True)
        self._thread.start()

    # --- called from any thread ---

    def methods(self) -> list[MethodSpec]:
        return method_specs()

    def describe_model(self, model: ModelConfig) -> ModelInfo:
        return self._submit(self._errands, lambda: self._residents.model(model).info())

    def estimate_index(self, model: ModelConfig, dataset_dir: Path, config: IndexConfig) -> IndexEstimate:
        return self._submit(
            self._errands,
            lambda: leaving_nothing(
                lambda: estimate_index(self._residents.model(model), open_dataset(dataset_dir), config)
            ),
        )

    def build_index(
        self, model: ModelConfig, dataset_dir: Path, config: IndexConfig, index_dir: Path, checkpoint: CheckpointFn
    ) -> IndexInfo:
        """Blocks until the index is ready; resumes what lies in `index_dir`."""

        def tick(progress: Progress) -> None:
            self._serve_waiting()
            if self._closed:
                raise ShuttingDown()
            checkpoint(progress)

        return self._submit(
            self._builds,
            lambda: leaving_nothing(
                lambda: build_index(self._residents.model(model), open_dataset(dataset_dir), config, index_dir, tick)
            ),
        )

    def submit_attribution(
        self, model: ModelConfig, dataset_dir: Path, index_dir: Path, query: Query, ask: AskOptions, group: str = ""
    ) -> Future[Attribution]:
        """Raises QueueFull at once when too many queries wait. group: who shares the queue with the others; the answer
        does not depend on it."""
        future: Future[Attribution] = Future()
        self._put(_Question((fingerprint(model), dataset_dir, index_dir), model, query, ask, future), group)
        return future

    def submit_generation(self, model: ModelConfig, query: Query, group: str = "") -> Future[Generated]:
        """What the model says to the prompt, in line with the questions. Raises QueueFull at once."""
        future: Future[Generated] = Future()
        self._put(_Generation((fingerprint(model), "generate"), model, query, future), group)
        return future

    def _put(self, waiting: _Waiting, group: str) -> None:
        with self._wake:
            self._refuse_when_closed()
            try:
                self._questions.put(waiting, waiting.key, group, _tokens(waiting.query))
            except NoRoom as full:
                raise self._queue_full(full) from None
            self._wake.notify()

    def _queue_full(self, full: NoRoom) -> QueueFull:
        """What waits now, and the batch at hand, have been answered by the stated time."""
        whose = "of yours " if full.of_group else ""
        seconds = round(self._mean_s * (full.batches + 1), 1)
        return QueueFull(f"{full.waiting} queries {whose}are waiting already.", retry_after_s=max(1.0, seconds))

    def self_influence(
        self,
        dataset_dir: Path,
        index_dir: Path,
        order: Literal["desc", "asc"],
        limit: int,
        start: int = 0,
        wanted: RowFilter | None = None,
    ) -> list[SelfInfluence]:
        """Rows by their score on themselves: Σ_c √s_c(z) in an ensemble, s(z) for one checkpoint; files only.

        start: how many of the order to pass over. Raises InvalidOption for a method without self-scores.
        """
        return ranked(_self_scores(index_dir), open_dataset(dataset_dir), order, limit, start, wanted)

    def self_influence_of(self, dataset_dir: Path, index_dir: Path, positions: Sequence[int]) -> list[SelfInfluence]:
        """Of these rows, with their ranks from the highest. Raises InvalidOption as above."""
        scores_N, dataset = _self_scores(index_dir), open_dataset(dataset_dir)
        return [placed(scores_N, dataset, position) for position in positions]

    def status(self) -> dict[str, Any]:
        """Counts are since the lane's start; `batch_sizes`: batches by their number of queries. `gpu_memory`, only on
        CUDA, in bytes."""
        now = {
            "started": True,
            "device": self.device,
            "queue_depth": len(self._questions),
            "max_queue": self._max_queue,
            "builds_waiting": len(self._builds),
            "models_loaded": len(self._residents.models),
            "model_bytes": self._residents.taken,
            "indexes_open": self._residents.open_indexes,
        }
        memory = {"gpu_memory": _gpu_memory(self.device)} if torch.device(self.device).type == "cuda" else {}
        return now | self._tally.figures() | memory

    def close(self) -> None:
        """Finish the batch at hand, fail what waits, end the thread."""
        with self._wake:
            self._closed = True
            waiting = self._questions.clear()
            self._wake.notify()
        for question in waiting:
            if question.future.set_running_or_notify_cancel():
                question.future.set_exception(ShuttingDown())
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=60)

    def _submit(self, queue: deque[Callable[[], None]], work: Callable[[], T]) -> T:
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:  # handed to the caller, whatever it is
                future.set_exception(error)

        with self._wake:
            self._refuse_when_closed()
            queue.append(run)
            self._wake.notify()
        return future.result()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ShuttingDown()

    # --- on the lane's own thread ---

    def _run(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
            faiss.omp_set_num_threads(self._threads)
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closed or self._questions or self._errands or self._builds)
                if self._closed and not self._errands and not self._builds:
                    return
                self._gather()
            self._serve_waiting()
            if self._builds:
                self._builds.popleft()()

    def _gather(self) -> None:
        """With the lock held: wait for company, while nothing else is to be done."""
        while 0 < len(self._questions) < self._max_batch and not (self._closed or self._errands or self._builds):
            oldest = min(question.arrived for question in self._questions)
            left_s = self._gathering.left_s(len(self._questions), oldest, time.perf_counter())
            if left_s <= 0:
                return
            self._wake.wait(left_s)

    def _serve_waiting(self) -> None:
        """Every errand and query that waits now; called between the batches of a build as well. Those that come
        meanwhile wait for the next call: a steady stream of queries slows a build down but never stops it."""
        for _ in range(len(self._errands)):
            self._errands.popleft()()
        left = len(self._questions)
        while left > 0 and (batch := self._next_batch()):
            left -= len(batch)
            began = time.perf_counter()
            self._generate([waiting for waiting in batch if isinstance(waiting, _Generation)])
            self._answer([waiting for waiting in batch if isinstance(waiting, _Question)])
            ended = time.perf_counter()
            self._tally.add(len(batch), ended - began)
            self._gathering.answered(len(batch), ended)
            took = ended - max(self._last_batch_ended, min(question.arrived for question in batch))
            self._mean_s, self._last_batch_ended = 0.8 * self._mean_s + 0.2 * took, ended

    def _serve_others(self) -> None:
        """What waits, between the steps of a question that takes minutes; within that nothing else steps aside."""
        if self._closed:
            raise ShuttingDown()
        if not self._stepped_aside:
            self._stepped_aside = True
            try:
                self._serve_waiting()
            finally:
                self._stepped_aside = False

    def _next_batch(self) -> list[_Waiting]:
        """Empty only when nothing waits: a query that is withdrawn after it was taken does not end the serving."""
        while True:
            with self._wake:
                taken = self._questions.take()
            batch = [question for question in taken if question.future.set_running_or_notify_cancel()]
            if batch or not taken:
                return batch

    def _generate(self, batch: list[_Generation]) -> None:
        """One after the other, as within a question: what is said does not depend on company."""
        for waiting in batch:
            try:
                waiting.future.set_result(generate_only(self._residents.model(waiting.model), waiting.query))
            except BaseException as error:
                waiting.future.set_exception(error)

    def _answer(self, batch: list[_Question]) -> None:
        """Each caller has its answer as soon as it is made, not when the last one of the batch is."""
        started = time.perf_counter()
        waiting = dict(enumerate(batch))
        if not batch:
            return
        try:
            index = self._residents.index(batch[0].model, batch[0].key)
            index.between = self._serve_others
            for slot, answer in attribute_each(index, [(question.query, question.options) for question in batch]):
                self._tell(waiting.pop(slot), answer, started)
        except BaseException as error:
            for question in waiting.values():
                question.future.set_exception(error)

    def _tell(self, question: _Question, answer: Attribution | EngineError, started: float) -> None:
        if isinstance(answer, EngineError):
            question.future.set_exception(answer)
            return
        self._tally.tokens += len(answer.tokens)
        waited = {"queue": round(1000 * (started - question.arrived), 3)}
        question.future.set_result(replace(answer, timings_ms=waited | answer.timings_ms))


def _tokens(query: Query) -> float:
    """About how many the model reads."""
    own = [query.prompt, query.completion, *(turn.content for turn in query.messages or ())]
    count = sum(len(text.encode(errors="replace")) for text in own if text) / _BYTES_PER_TOKEN
    if query.contrast is not None:  # behind the same prompt
        count += (len(query.prompt or "") + len(query.contrast)) / _BYTES_PER_TOKEN
    count += query.generate.max_new_tokens if query.generate is not None else 0
    return count + sum(map(_tokens, query.members))


def _is_withdrawn(question: _Waiting) -> bool:
    """True of a query that its caller has cancelled; the future's own waiters are then told."""
    return question.future.cancelled() and not question.future.set_running_or_notify_cancel()


def _gpu_memory(device: str) -> dict[str, int]:
    """allocated: by tensors; reserved: by torch, with what it keeps for later; free and total: of the whole device."""
    free, total = torch.cuda.mem_get_info(device)
    allocated, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {"allocated_bytes": allocated, "reserved_bytes": reserved, "free_bytes": free, "total_bytes": total}


def _resolve_device(device: str) -> str:
    """`auto`: the first CUDA device where there is one, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _self_scores(index_dir: Path) -> np.ndarray:
    """float64 [N]"""
    store = IndexStore.open(index_dir)
    require_self_scores(store.manifest.method)
    return self_influence(store.self_scores())


def require_self_scores(name: str) -> None:
    """Raises InvalidOption: of this method an index holds no row's score on itself."""
    method = get_method(name)
    if isinstance(method, RowMethod):
        cause = f"{name} compares a row's text with a query's, so a row has no score on itself."
    elif isinstance(method, ReplayMethod):
        cause = f"{name} goes back through the training run for one query at a time: its index holds no self-scores."
    elif isinstance(method, GradientMethod) and not method.self_scores:
        cause = f"{name} solves for one query at a time, so its index holds no row's score on itself."
    else:
        return
    raise InvalidOption(cause, remedy="Ask an index of another method: ekfac, kfac, graddot or loss.")
