"""Stacks of variants on several processes, one resident base each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event

import torch

from engine.causal.outcomes import OutcomeStore
from engine.causal.retrainer import Retrainer, Study
from engine.causal.variant import Variant
from engine.errors import Cancelled, EngineUnavailable

_LISTEN_SECONDS = 0.2


def train_and_keep(
    trainer: Retrainer, store: OutcomeStore, variants: Sequence[Variant], tick: Callable[[int], object]
) -> None:
    outcome_VQ = trainer.train(variants, tick)
    for variant, outcome_Q, answers in zip(variants, outcome_VQ, trainer.answers(), strict=True):
        store.write(variant, outcome_Q, answers)


def run_in_processes(
    study: Study,
    store: OutcomeStore,
    stacks: Sequence[Sequence[Variant]],
    processes: int,
    tick: Callable[[int], object],
) -> None:
    """tick: called here, every now and then, with the adapter steps done since; when it raises, the work stops.

    Raises what a worker raised, and EngineUnavailable when one died (of memory, most likely).
    """
    context = multiprocessing.get_context("spawn")
    done, stop = context.Value("q", 0), context.Event()
    start = (study, store, done, stop)
    with ProcessPoolExecutor(processes, context, initializer=_open, initargs=start) as pool:
        try:
            with _interrupts_for_the_parent_only():
                futures = [pool.submit(_work, stack) for stack in stacks]
            _follow(futures, done, tick)
        except BrokenProcessPool:
            raise EngineUnavailable(
                "A training process died, most likely for want of memory.", remedy="Run again with fewer processes."
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


@contextmanager
def _interrupts_for_the_parent_only() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, also one that still imports and can only print a traceback. Processes
    started here never see it: a mask is inherited. The parent stops them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow(futures: Sequence[Future[None]], done: Synchronized[int], tick: Callable[[int], object]) -> None:
    reported, pending = 0, set(futures)
    while pending:
        finished, pending = wait(pending, timeout=_LISTEN_SECONDS, return_when=FIRST_EXCEPTION)
        for future in finished:
            future.result()
        steps = done.value
        if steps > reported:
            tick(steps - reported)
            reported = steps


@dataclass
class _Worker:
    trainer: Retrainer
    store: OutcomeStore
    done: Synchronized[int]
    stop: Event

    def tick(self, steps: int) -> None:
        if self.stop.is_set():
            raise Cancelled("The retraining was stopped.")
        with self.done.get_lock():
            self.done.value += steps


_worker: _Worker  # this process's own


def _open(study: Study, store: OutcomeStore, done: Synchronized[int], stop: Event) -> None:
    global _worker
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worker = _Worker(Retrainer(study), store, done, stop)


def _work(variants: Sequence[Variant]) -> None:
    train_and_keep(_worker.trainer, _worker.store, variants, _worker.tick)


def _leave_with_parent() -> None:
    """A worker waiting for work would never notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)
