"""Cursors, ids and conditions of requests: opaque to those who send them, and checked like anything that is sent."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from hypothesis import strategies as st

from app.pagination import decode_cursor, decode_place, decode_position, encode_cursor, encode_position
from tests.fuzzing.mutation import damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, texts, trees

WHOLE = [
    encode_position(datetime(2026, 11, 21, 10, 0, 0, 123, tzinfo=UTC), "att_abc"),
    encode_cursor(7),
    encode_cursor("2026-11-21T10:00:00+00:00", "ds_abc"),
    encode_cursor(0.5, 3),
]


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


moments = st.sampled_from(("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-11-21", "2026-W01", "x"))
keys = st.one_of(trees(), st.lists(trees(), max_size=3), st.tuples(moments | texts, texts).map(list))
cursors = st.one_of(
    damaged([cursor.encode() for cursor in WHOLE]).map(lambda content: content.decode("latin-1")),
    damaged([base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) for cursor in WHOLE]).map(_encoded),
    documents(keys).map(_encoded),
    texts,
)


@contextmanager
def decoded(_work: Path) -> Iterator[Callable[[tuple[str, str]], None]]:
    def check(given: tuple[str, str]) -> None:
        cursor, kind = given
        if kind == "position":
            moment, row_id = decode_position(cursor)
            assert moment.tzinfo is UTC and row_id.isascii()
            assert decode_position(encode_position(moment, row_id)) == (moment, row_id)
        elif kind == "place":
            assert 0 <= decode_place(cursor) < 2**63
        else:
            key = decode_cursor(cursor, int(kind))
            assert len(key) == int(kind)

    yield check


TARGETS = [Target("cursors", st.tuples(cursors, st.sampled_from(("position", "position", "place", "1", "2"))), decoded)]
