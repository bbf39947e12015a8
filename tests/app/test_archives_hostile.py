"""Archives that were not made by an export, or not left as it made them: refused whole, and nothing stays behind."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.indexes.archive import ArchiveReader, InvalidArchive
from engine.dataset import store_dataset
from engine.errors import CorruptIndex
from engine.integrity import sealed
from tests.app.archives import Servers, members, packed, two_servers
from tests.app.resources import assert_problem, jsonl


def changed(archive: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """With another export.json."""
    found = members(archive)
    header = json.loads(found["export.json"])
    change(header)
    return packed(found | {"export.json": json.dumps(header).encode()})


def resealed(archive: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """With another manifest.json, whose checksums fit."""
    found = members(archive)
    values = json.loads(found["index/manifest.json"])
    del values["checksum"]
    change(values)
    found["index/manifest.json"] = text = sealed(values).encode()
    header = json.loads(found["export.json"])
    checksum = hashlib.blake2b(text, digest_size=32).hexdigest()
    header["members"]["index/manifest.json"] = {"bytes": len(text), "checksum": checksum}
    return packed(found | {"export.json": json.dumps(header).encode()})


def link(kind: bytes, name: str, target: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def bomb(name: str) -> tarfile.TarInfo:
    """Says that 8 TB follow."""
    member = tarfile.TarInfo(name)
    member.size = 8 << 40
    return member


def without(archive: bytes, name: str) -> bytes:
    return packed({member: content for member, content in members(archive).items() if member != name})


def renamed(name: str) -> Callable[[bytes], bytes]:
    """A shard of another name, declared and packed."""

    def change(archive: bytes) -> bytes:
        found = members(archive)
        header = json.loads(found["export.json"])
        header["members"][name] = header["members"].pop("index/shards/00000.faiss")
        found[name] = found.pop("index/shards/00000.faiss")
        return packed(found | {"export.json": json.dumps(header).encode()})

    return change


def extended(header_type: bytes) -> Callable[[bytes], bytes]:
    """An extension header of 1 TB in front of a member: a general reader would take it into memory."""

    def change(archive: bytes) -> bytes:
        first = packed({"export.json": members(archive)["export.json"]})[:-10240]
        member = tarfile.TarInfo("x")
        member.type, member.size = header_type, 1 << 40
        return first[: len(first) // 512 * 512].rstrip(b"\0").ljust(
            -(-len(first.rstrip(b"\0")) // 512) * 512, b"\0"
        ) + (member.tobuf(tarfile.GNU_FORMAT))

    return change


def relinked(archive: bytes) -> bytes:
    """One that a reader which goes by sizes alone would take for the file."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        place = tar.getmember("index/shards/00000.faiss").offset
    block = tarfile.TarInfo.frombuf(archive[place : place + 512], "utf-8", "strict")
    block.type, block.linkname = tarfile.SYMTYPE, "/etc/passwd"
    size, block.size = block.size, 0
    header = bytearray(block.tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return archive[:place] + bytes(header) + archive[place + 512 :]


def other_rows(archive: bytes) -> bytes:
    """As many, whole and declared, but not those that the index was built of."""
    with tempfile.TemporaryDirectory() as directory:
        lines = Path(directory) / "rows.jsonl"
        lines.write_bytes(jsonl([{"text": f"another row {number}"} for number in range(4)]))
        stored = store_dataset(lines, format=None, root=Path(directory))
        rows = (Path(directory) / stored.sha256 / "rows.arrow").read_bytes()
    header = json.loads(members(archive)["export.json"])
    checksum = hashlib.blake2b(rows, digest_size=32).hexdigest()
    header["members"]["dataset/rows.arrow"] = {"bytes": len(rows), "checksum": checksum}
    return packed(members(archive) | {"export.json": json.dumps(header).encode(), "dataset/rows.arrow": rows})


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "no tar": lambda _: b"PK\x03\x04 this is a zip",
    "nothing": lambda _: b"",
    "zeros": lambda _: bytes(10240),
    "cut off in a header": lambda archive: archive[:300],
    "cut off in a file": lambda archive: archive[: len(archive) // 2],
    "cut off before its end": lambda archive: archive[: archive.rstrip(b"\0").__len__() - 600],
    "export.json is not the first": lambda archive: packed(dict(reversed(list(members(archive).items())))),
    "a parent directory": renamed("../../escaped"),
    "a parent directory within": renamed("index/shards/../../../escaped"),
    "an absolute path": renamed("/tmp/escaped"),
    "another name": renamed("index/notes.txt"),
    "undeclared": lambda archive: packed(members(archive) | {"index/shards/00099.faiss": b"x"}),
    "undeclared and outside": lambda archive: packed(members(archive) | {"../escaped": b"x"}),
    "a symbolic link": lambda archive: packed(
        members(archive), link(tarfile.SYMTYPE, "index/shards/00000.faiss", "/etc/passwd")
    ),
    "a hard link": lambda archive: packed(
        members(archive), link(tarfile.LNKTYPE, "index/shards/00000.faiss", "/etc/passwd")
    ),
    "a link in place of a file": lambda archive: packed(
        {name: content for name, content in members(archive).items() if name != "index/shards/00000.faiss"},
        link(tarfile.SYMTYPE, "index/shards/00000.faiss", "/etc/passwd"),
    ),
    "a link of the declared size": relinked,
    "a device": lambda archive: packed(members(archive), link(tarfile.CHRTYPE, "index/shards/00000.faiss", "")),
    "a pipe": lambda archive: packed(members(archive), link(tarfile.FIFOTYPE, "index/shards/00000.faiss", "")),
    "a directory": lambda archive: packed(members(archive), link(tarfile.DIRTYPE, "index/shards/00000.faiss", "")),
    "a file twice": lambda archive: (
        archive[: len(archive.rstrip(b"\0")) // 512 * 512 + 512]
        + packed({"index/shards/00003.faiss": members(archive)["index/shards/00003.faiss"]})
    ),
    "a file is missing": lambda archive: without(archive, "index/shards/00001.faiss"),
    "rows are missing": lambda archive: without(archive, "dataset/rows.arrow"),
    "a larger size than was declared": lambda archive: packed(
        members(archive) | {"index/shards/00001.faiss": b"x" * 100_000}
    ),
    "a member of 8 TB": lambda archive: (
        packed({"export.json": members(archive)["export.json"]})[:-10240]
        + bomb("dataset/rows.arrow").tobuf(tarfile.GNU_FORMAT)
    ),
    "extension headers": extended(tarfile.XHDTYPE),
    "global extension headers": extended(tarfile.XGLTYPE),
    "long names": extended(tarfile.GNUTYPE_LONGNAME),
    "sparse files": extended(tarfile.GNUTYPE_SPARSE),
    "another version": lambda archive: changed(archive, lambda header: header.update(whence_export=2)),
    "an unknown field": lambda archive: changed(archive, lambda header: header.update(run="rm")),
    "another revision": lambda archive: changed(archive, lambda header: header.update(revision="another")),
    "another method": lambda archive: changed(archive, lambda header: header.update(method="trak")),
    "a config that is none": lambda archive: changed(archive, lambda header: header.update(config={"method": 7})),
    "rows of another name": lambda archive: changed(archive, lambda header: header["dataset"].update(sha256="0" * 64)),
    "another number of rows": lambda archive: changed(archive, lambda header: header["dataset"].update(rows=5)),
    "a member of negative size": lambda archive: changed(
        archive, lambda header: header["members"]["dataset/rows.arrow"].update(bytes=-1)
    ),
    "other rows": other_rows,
    "deep nesting": lambda archive: packed(
        members(archive) | {"export.json": b'{"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}"}
    ),
    "an unfinished index": lambda archive: resealed(archive, lambda values: values.update(state="building")),
    "a manifest that names other files": lambda archive: resealed(
        archive, lambda values: values["shards"][0].update(checksums={"../../etc/passwd": "0" * 64})
    ),
    "a manifest that names fewer files": lambda archive: resealed(archive, lambda values: values["shards"].pop()),
    "a manifest of another schema": lambda archive: resealed(archive, lambda values: values.update(schema_version=9)),
}


SAYS = {
    "other rows": "does not hold the rows",
    "a link of the declared size": "not a plain file",
    "a larger size than was declared": "has 100000 bytes",
    "a file twice": "is there twice",
    "undeclared": "is not in export.json",
    "a file is missing": "is missing",
    "cut off in a file": "ends in the middle",
    "extension headers": "not a plain file",
    "a parent directory": "no file of an index",
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    yield from two_servers(tmp_path_factory.mktemp("shared"), "")


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_and_leaves_nothing(shared: Servers, what: str, tmp_path: Path) -> None:
    before = shared.left()
    problem = assert_problem(shared.send(HOSTILE[what](shared.exported())), 422, "invalid-archive", "/file")
    assert SAYS.get(what, "not an exported index") in problem["detail"] and len(problem["detail"]) < 600
    assert shared.left() == before
    assert not list(shared.home.parent.rglob("escaped")) and not Path("/tmp/escaped").exists()
    assert shared.there.get("/v1/indexes").json()["data"] == []


def test_one_flipped_bit_of_an_archive_is_refused(shared: Servers) -> None:
    """Of what lies in it: a tar's own padding holds nothing."""
    archive, before = shared.exported(), shared.left()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        places = [(member.name, member.offset_data + member.size // 2) for member in tar if member.size]
    for name, place in places:
        damaged = bytearray(archive)
        damaged[place] ^= 1
        refused = shared.send(bytes(damaged))
        assert refused.status_code in (409, 422), (name, refused.text)  # 409: a bit of the model's fingerprint
    assert shared.left() == before


def test_an_archive_larger_than_uploads_may_be_is_refused(shared: Servers) -> None:
    def grow(header: dict[str, Any]) -> None:
        header["members"]["dataset/rows.arrow"]["bytes"] = 3 << 30

    assert_problem(shared.send(changed(shared.exported(), grow)), 413, "payload-too-large")
    huge = tarfile.TarInfo("export.json")
    huge.size = 1 << 40
    assert_problem(shared.send(huge.tobuf(tarfile.GNU_FORMAT)), 413, "payload-too-large")


def test_what_the_engine_refuses_is_refused(shared: Servers) -> None:
    shared.engine.errors["check_index"] = CorruptIndex("The index file shards/00000.faiss is damaged: odd.")
    before = shared.left()
    try:
        refused = assert_problem(shared.send(shared.exported()), 422, "invalid-archive", "/file")
    finally:
        shared.engine.errors.clear()
    assert "odd" in refused["detail"] and shared.left() == before


def test_the_reader_itself_compares_every_checksum(shared: Servers, tmp_path: Path) -> None:
    found = members(shared.exported())
    for number, name in enumerate(name for name in found if name != "export.json"):
        damaged = packed(found | {name: bytes([found[name][0] ^ 1]) + found[name][1:]})
        with pytest.raises(InvalidArchive, match="checksum differs"):
            ArchiveReader(io.BytesIO(damaged), 1 << 30).extract(tmp_path / str(number))
