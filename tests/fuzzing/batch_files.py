"""Batches: the file of questions, line by line, and the file of results after a crash."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from app.batches.asking import custom_id_of, question_of, read_line
from app.batches.files import BatchFiles
from app.errors import AppError, InvalidRequest
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly, trees, written

LONGEST, MOST_LINES = 4096, 40
DEFAULTS: dict[str, Any] = {"index": "idx_a", "top_k": 3}
QUESTIONS: list[dict[str, Any]] = [
    {"custom_id": "a", "model": "bot", "prompt": "Where?", "completion": " There.", "top_k": 2},
    {"custom_id": "b", "index": "prod", "messages": [{"role": "user", "content": "Hi"}], "completion": "x"},
    {"prompt": "p", "generate": {"max_new_tokens": 4}, "filter": {"tags": {"task": "x"}, "exclude_ids": ["a"]}},
    {"queries": [{"prompt": "p", "completion": "c", "span": {"start": 0, "end": 1}}], "tokens": True},
]
RESULTS = [
    {"status": 200, "line": 1, "custom_id": "a", "body": {"id": "att_a", "index": "idx_a", "revision": "r"}},
    {"status": 422, "line": 2, "custom_id": None, "problem": {"status": 422, "title": "No", "detail": "x"}},
]
FILE = b"".join(written(question) + b"\n" for question in QUESTIONS)
questions = nearly(QUESTIONS)
files = st.one_of(damaged([FILE]), st.lists(documents(questions | trees()), max_size=5).map(b"\n".join))


@contextmanager
def asked(work: Path) -> Iterator[Callable[[bytes], str | None]]:
    """The file is refused, or every one of its lines is a question or a named error."""
    directory = work / "batch"

    def check(content: bytes) -> str | None:
        try:
            batch = BatchFiles(directory)
            counted = batch.save(io.BytesIO(content), MOST_LINES)
            lines = list(batch.lines(LONGEST))
            assert 0 < counted == len(lines) <= MOST_LINES
            failed = [error for line in lines if (error := _refusal(line))]
            assert all(error.detail and error.remedy and len(error.detail) < 5000 for error in failed)
            return f"{failed[0].code} in a line" if failed else None
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    yield check


def _refusal(line: Any) -> AppError | None:
    try:
        value = read_line(line, LONGEST)
        custom_id_of(value)
        question = question_of(value, DEFAULTS)
    except AppError as error:
        return error
    assert question_of(question.model_dump(mode="json", exclude_defaults=True), DEFAULTS) == question
    return None


@contextmanager
def resumed(work: Path) -> Iterator[Callable[[bytes], str | None]]:
    """What a crash left is cut back to whole lines, to which results are appended."""
    batch = BatchFiles(work)

    def check(content: bytes) -> str | None:
        batch.results.write_bytes(content)
        tally = batch.resume()
        kept = batch.results.read_bytes()
        assert content.startswith(kept) and kept.count(b"\n") == tally.done
        batch.append(RESULTS[:1])
        try:
            found = list(batch.read())
        except InvalidRequest:
            raise
        assert len(found) == tally.done + 1
        return None if kept == content else "cut back"

    yield check


RESULT_LINES = b"".join(written(result) + b"\n" for result in RESULTS)
TARGETS = [
    Target("batch of questions", files, asked, always=[FILE, *PIECES]),
    Target("results of a batch", damaged([RESULT_LINES]), resumed, always=[RESULT_LINES, *PIECES]),
]
