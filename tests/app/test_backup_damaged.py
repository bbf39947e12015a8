"""Backups that are not whole, or are none: refused by name before anything is written."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from app.backup.layout import DamagedBackup
from app.errors import Conflict
from app.settings import Settings
from engine.integrity import sealed
from tests.app.backups import backed_up, restored
from tests.app.stores import filled_store, flip, store_settings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`backup` and `backup.tar` in it."""
    root = tmp_path_factory.mktemp("backups")
    made = filled_store(root)
    (made.settings.home / "secret").write_text("s" * 64)
    for name in ("backup", "backup.tar"):
        backed_up(made.settings, root / name)
    return root


@pytest.fixture
def there(tmp_path: Path) -> Settings:
    return store_settings(tmp_path, home="there")


def refused(there: Settings, source: Path) -> str:
    with pytest.raises(DamagedBackup) as caught:
        restored(there, source)
    assert not there.home.exists()  # nothing was written
    return caught.value.detail


def test_one_flipped_bit_of_any_file_is_refused_by_its_name(whole: Path, there: Settings, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole / "backup", copy)
    every = sorted(path for path in copy.rglob("*") if path.is_file())
    one_of_a_kind = {(path.suffix, path.parent.name): path for path in every}.values()
    assert len(one_of_a_kind) > 6
    for path in one_of_a_kind:
        content = path.read_bytes()
        if not content:
            continue
        flip(path)
        assert path.name in refused(there, copy)
        path.write_bytes(content)
    every[-1].unlink()
    assert every[-1].name in refused(there, copy)


def test_one_flipped_bit_of_a_tar_is_refused(whole: Path, there: Settings, tmp_path: Path) -> None:
    with tarfile.open(whole / "backup.tar") as tar:
        places = [member.offset_data + member.size // 2 for member in tar if member.size]
    content, copy = (whole / "backup.tar").read_bytes(), tmp_path / "copy.tar"
    for place in places[:6]:
        damaged = bytearray(content)
        damaged[place] ^= 1
        copy.write_bytes(bytes(damaged))
        refused(there, copy)
    for size in (0, 100, len(content) // 3, len(content) // 3 * 2):
        copy.write_bytes(content[:size])
        refused(there, copy)


def test_a_tar_of_other_things_is_refused(whole: Path, there: Settings, tmp_path: Path) -> None:
    manifest = (whole / "backup" / "backup.json").read_bytes()

    def packed(*extra: tarfile.TarInfo, first: bytes = manifest) -> Path:
        path = tmp_path / "forged.tar"
        with tarfile.open(path, "w") as tar:
            member = tarfile.TarInfo("backup.json")
            member.size = len(first)
            tar.addfile(member, io.BytesIO(first))
            for member in extra:
                tar.addfile(member)
        return path

    link = tarfile.TarInfo("secret")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert "plain file" in refused(there, packed(link))
    assert "does not name" in refused(there, packed(tarfile.TarInfo("../../escaped")))
    assert "is missing" in refused(there, packed())
    values = json.loads(manifest)
    del values["checksum"]
    for name in ("../escaped", "/etc/passwd", "datasets/../../x", "elsewhere/x", "database/x/y.jsonl", "datasets"):
        forged = values | {"files": {name: {"bytes": 0, "checksum": "0" * 64}}}
        assert "no backup has" in refused(there, packed(first=sealed(forged).encode()))
    assert "version 9" in refused(there, packed(first=sealed(values | {"whence_backup": 9}).encode()))
    (tmp_path / "other").mkdir()
    assert "is missing" in refused(there, tmp_path / "other")


def test_a_backup_of_a_later_version_is_refused(whole: Path, there: Settings, tmp_path: Path) -> None:
    shutil.copytree(whole / "backup", tmp_path / "later")
    values = json.loads((tmp_path / "later" / "backup.json").read_text())
    del values["checksum"]
    (tmp_path / "later" / "backup.json").write_text(sealed(values | {"revision": "9999"}))
    with pytest.raises(Conflict, match="does not know"):
        restored(there, tmp_path / "later")
