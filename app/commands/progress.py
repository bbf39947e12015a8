"""A progress bar on stderr, fed by jobs or by the engine itself."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from app.commands.console import err


class Report(Protocol):
    """engine.types.Progress and whence_client's JobProgress alike."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def phase(self) -> str: ...


class PhaseBars:
    """One bar a phase; a bar is full when the next phase begins. Silent where stderr is no terminal."""

    def __init__(self) -> None:
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
        )
        self._bars = Progress(
            *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, disable=not err.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}

    def show(self, report: Report) -> None:
        phase = report.phase or "working"
        if phase not in self._tasks:
            self._fill_the_others()
            self._tasks[phase] = self._bars.add_task(phase, total=report.total or None, unit=report.unit)
        self._bars.update(self._tasks[phase], completed=report.done, total=report.total or None)

    def _fill_the_others(self) -> None:
        for task in self._bars.tasks:
            if task.total is not None:
                self._bars.update(task.id, completed=task.total)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._fill_the_others()
        self._bars.stop()
