"""Archives of an index, as anybody may send them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from app.indexes.archive import HEADER, INDEX, ROWS, VERSION, ArchiveReader
from engine.integrity import MANIFEST_FILE
from tests.fuzzing.mutation import PIECES, damaged
from tests.fuzzing.targets import Target
from tests.fuzzing.values import nearly

MOST_BYTES = 1 << 20
CONTENTS = {ROWS: b"rows " * 150, INDEX + MANIFEST_FILE: b"{}", INDEX + "shards/00000.faiss": bytes(700)}
EXPORT: dict[str, Any] = {
    "whence_export": VERSION,
    "name": "first",
    "method": "ekfac",
    "revision": "r1",
    "config": {"method": "ekfac", "options": {"seed": 0}},
    "sketched": False,
    "fingerprints": {"model": "m", "dataset": "d"},
    "model": {"name": "bot", "version": 1, "fingerprint": "m"},
    "dataset": {"name": "train", "sha256": "0" * 64, "rows": 4, "format": "jsonl", "warnings": []},
    "members": {
        name: {"bytes": len(content), "checksum": hashlib.blake2b(content, digest_size=32).hexdigest()}
        for name, content in CONTENTS.items()
    },
}


def packed(header: bytes, contents: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in {HEADER: header, **contents}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue().rstrip(b"\0") + bytes(2048)


WHOLE = packed(json.dumps(EXPORT).encode(), CONTENTS)
headers = nearly([EXPORT]).map(lambda value: packed(json.dumps(value).encode(), CONTENTS))


@contextmanager
def taken_in(work: Path) -> Iterator[Callable[[bytes], None]]:
    root = work / "unpacked"

    def check(content: bytes) -> None:
        try:
            reader = ArchiveReader(io.BytesIO(content), MOST_BYTES)
            assert reader.export.bytes <= MOST_BYTES
            root.mkdir()
            reader.extract(root)
            found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
            assert found == reader.export.members.keys()
        finally:
            assert {path.name for path in work.iterdir()} <= {"unpacked"}, "something was written elsewhere"
            shutil.rmtree(root, ignore_errors=True)

    yield check


TARGETS = [Target("archive of an index", st.one_of(damaged([WHOLE]), headers), taken_in, always=[WHOLE, *PIECES])]
