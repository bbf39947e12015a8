"""Files of queries that commands read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import strategies as st

from app.commands.queries import read_objects, read_queries
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import documents, nearly, trees, written

QUERIES = [
    {"id": "q1", "prompt": "Where?", "completion": " There.", "contrast": " Here.", "span": {"start": 0, "end": 3}},
    {
        "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
        "measurement": "log_odds",
    },
    {"id": 3, "queries": [{"prompt": "p", "completion": "c"}]},
]
FILE = b"".join(written(query) + b"\n" for query in QUERIES)
files = st.one_of(damaged([FILE]), st.lists(documents(nearly(QUERIES) | trees()), max_size=4).map(b"\n".join))


@contextmanager
def read(work: Path) -> Iterator[Callable[[bytes], None]]:
    def check(content: bytes) -> None:
        (work / "queries.jsonl").write_bytes(content)
        queries = read_queries(work / "queries.jsonl")
        assert len({query.id for query in queries}) == len(queries)
        assert len(read_objects(work / "queries.jsonl")) == len(queries)

    yield check


TARGETS = [Target("files of queries", files, read, always=[FILE, *PIECES])]
