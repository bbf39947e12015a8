"""Two servers between which an index travels, and archives taken apart and put together again."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient

from tests.app.fakes import FakeEngine
from tests.app.resources import add_model
from tests.app.stores import Filled, fill, model_directory, serving, store_settings


@dataclass(frozen=True)
class Servers:
    """One that has everything, and one that has only the model."""

    here: TestClient
    made: Filled
    there: TestClient
    model: str
    engine: FakeEngine

    @property
    def home(self) -> Path:
        return self.there.app.state.services.settings.home  # type: ignore[attr-defined]

    def exported(self) -> bytes:
        response = self.here.get(f"/v1/indexes/{self.made.index}/export")
        assert response.status_code == 200, response.text
        return response.content

    def send(self, archive: bytes, **fields: Any) -> Any:
        files = {"file": ("index.tar", archive)}
        return self.there.post("/v1/indexes/import", data={"model": self.model} | fields, files=files)

    def left(self) -> list[str]:
        """What lies on the disk of the other server, its database apart."""
        folders = ("indexes", "datasets", "uploads")
        return sorted(str(path.relative_to(self.home)) for name in folders for path in (self.home / name).rglob("*"))


def two_servers(tmp_path: Path, database_url: str) -> Iterator[Servers]:
    settings, directory, engine = store_settings(tmp_path), model_directory(tmp_path), FakeEngine()
    with serving(settings) as here, serving(store_settings(tmp_path, database_url, "there"), engine) as there:
        made = fill(here, settings, directory)
        yield Servers(
            here, made, there, add_model(there, directory, recipe={"training": {"learning_rate": 0.01}})["id"], engine
        )


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def packed(found: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in found.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return sink.getvalue()
