"""The list of targets, and what a target is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """One kind of input and what reads it.

    opened: given a directory of its own, gives the check of one input. The check returns None for a valid result, or
    the name of a refusal that is no exception; it raises declared errors, and AssertionError for a result that is not
    what it should be. slow: a process of its own for each input, so few are made, beside the number asked for.
    always: tried first, whatever the random ones are.
    """

    name: str
    inputs: st.SearchStrategy[Any]
    opened: Callable[[Path], AbstractContextManager[Callable[[Any], str | None]]]
    slow: bool = False
    always: Sequence[Any] = ()


def targets() -> list[Target]:
    """Every one. Imported here: each of these files needs `Target`."""
    from tests.fuzzing import (
        archive_files,
        arrow_files,
        backup_files,
        batch_files,
        cursors,
        dataset_files,
        evaluation_files,
        index_files,
        query_files,
        requests,
        row_values,
        run_files,
    )

    parts = (dataset_files, row_values, arrow_files, index_files, evaluation_files, archive_files, backup_files)
    return [one for part in (*parts, batch_files, cursors, requests, query_files, run_files) for one in part.TARGETS]
