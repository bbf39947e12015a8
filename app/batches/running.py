"""The job of a batch: asks its lines a window at a time, and appends their results in the order of the file."""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import structlog
from sqlalchemy.orm import Session

from app.attributions.keeping import KeptAnswers
from app.attributions.planning import Plan, plan_attribution
from app.batches.asking import custom_id_of, question_of, read_line
from app.batches.files import BatchFiles, Line
from app.batches.repository import BatchesRepository
from app.dependencies import Services
from app.errors import AppError, problem_of
from app.jobs.contract import CANCELLED, FAILED, QUEUED, RUNNING, SUCCEEDED, Done, JobContext
from app.tables import JobRow, utc_now
from app.telemetry.answers import watched
from engine.errors import Cancelled, EngineError, QueueFull
from engine.types import Attribution, Progress

log = structlog.get_logger("whence.batches")

BATCH = "attribution.batch"
POLL_SECONDS = 0.1  # how soon a cancelled batch lets go
# Not the line's fault: the batch stops, and goes on from here when it is resumed.
EVERYBODYS = frozenset({503, 507})

Json = dict[str, Any]


@dataclass
class _Asked:
    """A line in the window: its question in the engine, or its result already."""

    line: Line
    custom_id: str | None
    asked_at: datetime
    plan: Plan | None = None
    future: Future[Attribution] | None = None
    result: Json | None = None

    @property
    def is_settled(self) -> bool:
        return self.future is None or self.future.done()

    def succeeded(self, body: Json) -> Json:
        return {"status": 200, "line": self.line.number, "custom_id": self.custom_id, "body": body}

    def failed(self, problem: Json) -> Json:
        shown = {"line": self.line.number, "custom_id": self.custom_id, "problem": problem}
        return {"status": problem["status"]} | shown


def run_batch(services: Services, context: JobContext) -> Done:
    """Answers the lines that have no result yet. Raises Cancelled, and what is not one line's fault."""
    return BatchRun(services, context).run()


class BatchRun:
    """One attempt. `window`: the lines asked and not yet answered, oldest first; `flying`: their questions in the
    engine by what is asked, so that a question that comes twice is computed once."""

    def __init__(self, services: Services, context: JobContext) -> None:
        self.services, self.context = services, context
        self.settings = services.settings
        self.batch_id: str = context.payload["batch"]
        with services.database.read() as session:
            row = BatchesRepository(session, context.tenant).get(self.batch_id)
        self.lines, self.defaults = row.lines, row.defaults
        self.files = BatchFiles(self.settings.batches_dir / self.batch_id)
        self.tally = self.files.resume()
        places = self.settings.max_queue_per_tenant or self.settings.max_queue
        self.room = max(1, min(self.settings.batch_window, min(places, self.settings.max_queue) // 2))
        self.window: deque[_Asked] = deque()
        self.flying: dict[str, Future[Attribution]] = {}

    def run(self) -> Done:
        self._tick()
        try:
            for line in islice(self.files.lines(self.settings.max_body_bytes), self.tally.done, None):
                while len(self.window) >= self.room:
                    self._settle()
                self.window.append(self._asked(line))
            while self.window:
                self._settle()
        finally:
            for asked in self.window:
                if asked.future is not None:
                    asked.future.cancel()
        counts = {"succeeded": self.tally.succeeded, "failed": self.tally.failed}
        return Done({"batch": self.batch_id, "lines": self.lines} | counts, self.tally)

    def _asked(self, line: Line) -> _Asked:
        asked = _Asked(line, None, utc_now())
        try:
            value = read_line(line, self.settings.max_body_bytes)
            asked.custom_id = custom_id_of(value)
            asked.plan, stored = self._plan(value)
        except (AppError, EngineError) as error:
            asked.result = asked.failed(_own_problem(error))
            return asked
        if stored is not None:
            asked.result = asked.succeeded(stored)
        else:
            self._submit(asked, asked.plan)
        return asked

    def _plan(self, value: Json) -> tuple[Plan, Json | None]:
        """The question, and its answer where it is stored already."""
        body = question_of(value, self.defaults)
        with self.services.database.read() as session:
            plan = plan_attribution(session, self.context.tenant, self.settings, body)
            earlier = KeptAnswers(session, self.context.tenant).earlier(plan)
            return plan, None if earlier is None else earlier.result

    def _submit(self, asked: _Asked, plan: Plan) -> None:
        """A batch has time: while the queue is full it settles its own questions, then stands in line behind the
        requests that somebody waits for."""
        while (future := self.flying.get(plan.cache_key)) is None:
            try:
                self.flying[plan.cache_key] = watched(self.services, plan.submit)
            except QueueFull as full:
                self._make_way(full)
            except (AppError, EngineError) as error:
                asked.result = asked.failed(_own_problem(error))
                return
        asked.future = future

    def _make_way(self, full: QueueFull) -> None:
        if self.window:
            self._settle()
        else:
            self._tick()
            time.sleep(min(full.retry_after_s, 1.0))

    def _settle(self) -> None:
        """Waits for the oldest line, and writes it with those behind it that are answered too."""
        future = self.window[0].future
        while future is not None and not future.done():
            self._tick()
            _wait(future)
        group: list[_Asked] = []
        while self.window and self.window[0].is_settled:
            group.append(self.window.popleft())
        self._write(group)
        for asked in group:
            if asked.plan is not None:
                self.flying.pop(asked.plan.cache_key, None)
        self._tick()

    def _write(self, group: list[_Asked]) -> None:
        """The answers become rows first, so that every id in the file exists. A batch that is killed in between finds
        them stored, and does not compute them again."""
        answers = {id(asked): _outcome(asked) for asked in group}
        with self.context.transaction() as session:
            results = [self._result(session, asked, answers[id(asked)]) for asked in group]
        succeeded = sum(result["status"] == 200 for result in results)
        with self.context.transaction() as session:  # while it lasts no other worker takes the job over
            row = BatchesRepository(session, self.context.tenant).get(self.batch_id)
            self.tally.succeeded += succeeded
            self.tally.failed += len(results) - succeeded
            row.succeeded, row.failed = self.tally.succeeded, self.tally.failed
            session.flush()
            self.files.append(results)

    def _result(self, session: Session, asked: _Asked, outcome: Attribution | Json) -> Json:
        if isinstance(outcome, dict):
            return outcome
        assert asked.plan is not None
        kept = KeptAnswers(session, self.context.tenant)
        row = kept.earlier(asked.plan) or kept.keep(asked.plan, outcome, asked.asked_at)
        assert row.result is not None
        return asked.succeeded(row.result)

    def _tick(self) -> None:
        self.context.checkpoint(Progress(self.tally.done, self.lines, "lines", "ask"))


def _wait(future: Future[Attribution]) -> None:
    """A little, or until it has ended; how it ended is looked at later."""
    with suppress(TimeoutError, CancelledError):
        future.exception(timeout=POLL_SECONDS)


def _outcome(asked: _Asked) -> Attribution | Json:
    """The engine's answer, or the line's result where there is none to store. Raises what is not the line's fault."""
    if asked.future is None:
        assert asked.result is not None
        return asked.result
    try:
        return asked.future.result()
    except CancelledError as error:
        raise Cancelled("The server is stopping.") from error
    except Exception as error:
        return asked.failed(_own_problem(error))


def _own_problem(error: Exception) -> Json:
    """The problem of one line. Raises an error that every line would meet, or that stops the job."""
    problem = problem_of(error)
    if isinstance(error, Cancelled) or problem["status"] in EVERYBODYS:
        raise error
    if not isinstance(error, (AppError, EngineError)):
        log.error("a line of a batch failed", exc_info=error)
    return problem


def follow_batch(_services: Services, session: Session, job: JobRow, _outcome: Any) -> None:
    """The batch's row follows its job."""
    row = BatchesRepository(session, job.tenant).find(job.payload["batch"])
    if row is None:
        return
    if job.state == SUCCEEDED:
        row.state, row.error, row.finished_at = "ready", None, utc_now()
    elif job.state in (QUEUED, RUNNING):
        row.state, row.error, row.finished_at = job.state, None, None
    elif job.state in (FAILED, CANCELLED):
        row.state, row.error, row.finished_at = job.state, job.error, utc_now()
