"""Every kind of file that a real server leaves below its home, damaged: named on use, found and repaired by doctor.

The kinds are found by walking the home, so that a new one cannot be forgotten.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from app.cli import main
from app.doctor.run import repair
from app.engine_client import LocalEngine
from app.errors import AppError
from app.main import create_app
from app.secret import server_secret
from app.settings import Settings
from app.tables import DatasetRow, JobRow
from engine.causal.outcomes import OutcomeStore
from engine.causal.variant import Variant
from engine.errors import EngineError
from engine.evaluate.scorecard import Scorecard
from tests import factories
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine
from tests.app.resources import add_dataset, add_index, add_model, evaluated, jsonl, wait_for_index, wait_for_job
from tests.app.stores import findings, flip, in_database, looked_at

ROWS = factories.sentences(12)
ASKED = {"prompt": ROWS[3]["prompt"], "completion": ROWS[3]["completion"]}


class Engine(LocalEngine):
    """The real one. Only evaluations are not: they take minutes. What they leave has the real one's form."""

    def evaluate(
        self, model: Any, dataset: Any, index: Path, queries: Any, config: Any, work: Path, tick: Any
    ) -> Scorecard:
        outcomes = OutcomeStore(work / "retrainings", "study")
        outcomes.write_plan(width=4)
        outcomes.write(Variant("full/0", 0), np.array([0.25, -1.5]))
        (work / "scores").mkdir()
        np.savez(work / "scores" / "own.npz", scores=np.arange(40, dtype=np.float32))
        shutil.copytree(index, work / "indexes" / "twin")
        fake = FakeEngine()
        try:
            return fake.evaluate(model, dataset, index, queries, config, work, tick)
        finally:
            fake.close()


@dataclass(frozen=True)
class Home:
    settings: Settings
    dataset: str
    index: str
    batch: str
    evaluation: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One of everything, and an upload that waits for its failed job to be resumed."""
    root = tmp_path_factory.mktemp("made")
    llama = factories.llama(hidden=8, layers=1)
    factories.save_base(root / "base", llama)
    factories.save_adapter(root / "adapter", llama, 1, r=2)
    settings = make_settings(root, max_inline_rows_bytes=3000, model_roots=(root,))
    with TestClient(create_app(settings, Engine(device="cpu"))) as client:
        recipe = {"reduction": "token_sum", "training": {"learning_rate": 0.01}}
        model = add_model(client, root / "base", adapter=str(root / "adapter"), recipe=recipe)["id"]
        dataset = add_dataset(client, ROWS)["id"]
        options = {"shard_rows": 5, "curvature_rows": 12}
        index = wait_for_index(client, add_index(client, model, dataset, options=options)["id"])
        batch = client.post(
            "/v1/attributions/batches",
            data={"index": index["id"]},
            files={"file": ("q.jsonl", jsonl([ASKED | {"top_k": top_k} for top_k in (1, 2)]))},
        ).json()
        wait_for_job(client, batch["job_id"])
        evaluation = evaluated(client, index)
        many = [row | {"id": f"{row['id']}-{number}"} for number in range(9) for row in ROWS]
        broken = client.post(
            "/v1/datasets", data={"name": "large"}, files={"file": ("a.jsonl", jsonl(many) + b"{")}
        ).json()
        wait_for_job(client, broken["job_id"], "failed")
    server_secret(settings)  # as the first key makes it
    (settings.home / "server.lock").unlink()
    return Home(settings, dataset, index["id"], batch["id"], evaluation["id"])


def kind_of(path: str) -> str:
    """Ids, hashes and numbers apart: datasets/*/rows.arrow."""
    return re.sub(r"(?<=/)((ds|idx|evl|bat)_[a-z2-7]+|[0-9a-f]{32,}|\d+)", "*", path)


def one_of_each_kind(home: Path) -> dict[str, Path]:
    files = (path.relative_to(home) for path in sorted(home.rglob("*")) if path.is_file())
    return {kind_of(str(path)): path for path in files}


# What finds a file of this kind that was cut in half, and whether it finds one flipped bit, too: only where there is a
# checksum. None: nothing can tell before it is used; what then happens is in the tests below.
KINDS: dict[str, tuple[str | None, bool]] = {
    "datasets/*/rows.arrow": ("dataset-damaged", True),
    "indexes/*/manifest.json": ("index-damaged", True),
    "indexes/*/curvature/checkpoint-000.safetensors": ("index-damaged", True),
    "indexes/*/curvature/rows.safetensors": ("index-damaged", True),
    "indexes/*/shards/*.faiss": ("index-damaged", True),
    "indexes/*/shards/*.norms.safetensors": ("index-damaged", True),
    "evaluations/*/retrainings/plan.json": ("evaluation-damaged", False),
    "evaluations/*/retrainings/runs/*.json": ("evaluation-damaged", True),
    "evaluations/*/scores/own.npz": ("evaluation-damaged", True),
    "evaluations/*/figures.json": ("evaluation-damaged", False),
    "evaluations/*/indexes/twin/manifest.json": ("evaluation-damaged", True),
    "evaluations/*/indexes/twin/curvature/checkpoint-000.safetensors": ("evaluation-damaged", True),
    "evaluations/*/indexes/twin/curvature/rows.safetensors": ("evaluation-damaged", True),
    "evaluations/*/indexes/twin/shards/*.faiss": ("evaluation-damaged", True),
    "evaluations/*/indexes/twin/shards/*.norms.safetensors": ("evaluation-damaged", True),
    "batches/*/results.jsonl": ("batch-damaged", False),
    "batches/*/input.jsonl": ("batch-damaged", False),
    "uploads/*/rows.jsonl": (None, False),
    "whence.sqlite3": ("database-damaged", False),
    "secret": ("secret-damaged", False),
}
BY_HAND = {"database-damaged", "secret-damaged"}


@pytest.fixture
def home(made: Home, tmp_path: Path) -> Home:
    settings = made.settings.model_copy(update={"home": tmp_path / "home"})
    shutil.copytree(made.settings.home, settings.home)
    return Home(**(vars(made) | {"settings": settings}))


def flipped(path: Path) -> None:
    flip(path, 0.5)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def test_every_kind_of_file_is_known_here(made: Home) -> None:
    assert one_of_each_kind(made.settings.home).keys() == KINDS.keys()
    assert findings(made.settings) == []


@pytest.mark.parametrize("damage", [flipped, cut], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_doctor_names_the_file_and_repairs_or_says_what_to_do(
    home: Home, kind: str, damage: Callable[[Path], None]
) -> None:
    file, (expected, has_checksum) = one_of_each_kind(home.settings.home)[kind], KINDS[kind]
    damage(home.settings.home / file)
    found = findings(home.settings)
    if expected is None or (damage is flipped and not has_checksum):
        assert {finding.kind for finding in found} <= {expected}  # told or not, it makes nothing else fall over
        return
    assert {finding.kind for finding in found} == {expected}
    assert all(file.name in finding.what + finding.subject and finding.remedy for finding in found), found
    assert all((finding.repair is None) == (expected in BY_HAND) for finding in found)
    if expected not in BY_HAND:
        with looked_at(home.settings) as store:
            assert repair(store).left == []
        assert findings(home.settings) == []


ANSWER_TYPES = {"corrupt-dataset", "corrupt-index", "files-damaged", "index-unavailable", "fingerprint-mismatch"}


def uses(client: TestClient, home: Home) -> dict[str, Callable[[], Any]]:
    return {
        "rows": lambda: client.get(f"/v1/datasets/{home.dataset}/examples?q=cat"),
        "a question": lambda: client.post("/v1/attributions", json=ASKED | {"index": home.index, "top_k": 3}),
        "another question": lambda: client.post("/v1/attributions", json=ASKED | {"index": home.index, "top_k": 4}),
        "self-influence": lambda: client.get(f"/v1/indexes/{home.index}/self-influence"),
        "export": lambda: client.get(f"/v1/indexes/{home.index}/export"),
        "results": lambda: client.get(f"/v1/attributions/batches/{home.batch}/results"),
        "evaluation": lambda: client.get(f"/v1/evaluations/{home.evaluation}"),
        "figures": lambda: client.get(f"/v1/evaluations/{home.evaluation}/figures"),
    }


# Which uses meet the damage; all others answer as if nothing had happened.
MEET: dict[str, set[str]] = {
    "datasets/*/rows.arrow": {"rows", "a question", "another question", "self-influence", "export"},
    "indexes/*/manifest.json": {"a question", "another question", "self-influence", "export"},
    "indexes/*/curvature/checkpoint-000.safetensors": {"a question", "another question", "export"},
    "indexes/*/shards/*.faiss": {"a question", "another question", "export"},
    "indexes/*/shards/*.norms.safetensors": {"a question", "another question", "self-influence", "export"},
    "batches/*/results.jsonl": {"results"},
    "evaluations/*/figures.json": {"figures"},
    "evaluations/*/scores/own.npz": set(),
}


@pytest.mark.parametrize("kind", MEET)
def test_what_is_damaged_is_named_on_use_and_the_rest_goes_on(home: Home, kind: str) -> None:
    cut(home.settings.home / one_of_each_kind(home.settings.home)[kind])
    with TestClient(create_app(home.settings, Engine(device="cpu"))) as client:
        for what, use in uses(client, home).items():
            named = answered(use)
            assert named is None or (what in MEET[kind] and named in ANSWER_TYPES), (what, named)
            assert named is not None or what not in MEET[kind], what


def answered(use: Callable[[], Any]) -> str | None:
    """The problem's name; None for a good answer. What breaks off in the middle has a name in the log."""
    try:
        response = use()
    except RuntimeError as error:  # how Starlette ends an answer that has begun
        cause = error.__cause__
        return cause.code if isinstance(cause, (EngineError, AppError)) else repr(error)
    if response.status_code == 200:
        return None
    problem = response.json()
    assert problem["detail"] and problem["remedy"]
    return problem["type"].rpartition(":")[2]


@pytest.mark.parametrize("content", [b"", b"no database at all " * 100, None], ids=["empty", "text", "cut"])
def test_a_damaged_database_file_is_one_line_of_serve_and_doctor(
    home: Home, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home.settings.home / "whence.sqlite3"
    file.write_bytes(file.read_bytes()[:5000] if content is None else content)
    there = ["--home", str(home.settings.home)]
    if content != b"":  # an empty file is a new database to SQLite
        assert main(["serve", "--port", "0", *there]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "damaged" in said and "whence doctor" in said, said
    assert main(["doctor", *there]) == 1
    said = capsys.readouterr()
    assert said.err == "" and ("Restore the last backup" in said.out or "whence migrate" in said.out), said


def test_a_damaged_upload_is_named_when_its_job_reads_it(home: Home) -> None:
    file = home.settings.home / one_of_each_kind(home.settings.home)["uploads/*/rows.jsonl"]
    content = bytearray(file.read_bytes()[:-1])  # without the brace that failed the job
    content[len(content) // 2] = 0xFF
    file.write_bytes(bytes(content))
    dataset = file.parent.name

    def point_to_copy(session: Any) -> None:
        job = session.get(JobRow, session.get(DatasetRow, dataset).job_id)
        job.payload = job.payload | {"path": str(file)}

    in_database(home.settings, point_to_copy)
    with TestClient(create_app(home.settings, Engine(device="cpu"))) as client:
        job = client.get(f"/v1/datasets/{dataset}").json()["job_id"]
        assert client.post(f"/v1/jobs/{job}/resume").status_code == 202
        error = wait_for_job(client, job, "failed")["error"]
    assert error["type"].endswith("malformed-row") and "not valid UTF-8" in error["detail"]
    assert file.is_file()


def test_with_a_secret_that_was_cut_off_no_key_is_made_or_known(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.settings.home / "secret").write_bytes(b"")
    monkeypatch.setenv("WHENCE_HOME", str(home.settings.home))
    assert main(["keys", "create", "me"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "secret is damaged" in said and "backup" in said
