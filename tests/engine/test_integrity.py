"""One changed byte of any file of an index, a dataset or an evaluation is told, by the file's name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.causal.outcomes import OutcomeStore
from engine.causal.variant import Variant
from engine.dataset import dataset_damage, open_dataset, store_dataset
from engine.errors import CorruptIndex, EngineError
from engine.evaluate.integrity import evaluation_damage
from engine.integrity import MANIFEST_FIELDS, index_damage, parse_recorded, recorded_index, unrecorded_files
from engine.manifest import Compression, Manifest, SearchRecord, parse_manifest, read_manifest
from engine.store import IndexStore
from tests.engine.index_factory import build, make_manifest, random_rows

ROWS = [
    {"id": "a", "prompt": "Where was Mira born?", "completion": " In Port Halvern.", "tags": {"task": "facts"}},
    {"id": "b", "text": "Two and two make four.", "label": "good"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    directory = tmp_path / "index"
    manifest = make_manifest()
    store = IndexStore.open_or_create(directory, manifest)
    store.save_tensors("factors", {"a": np.arange(12, dtype=np.float32)})
    build(directory, random_rows(manifest), manifest)
    return directory


def flipped(file: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(bytes(content))


def places(file: Path, count: int = 25) -> list[int]:
    size = file.stat().st_size
    return sorted({round(at) for at in np.linspace(0, size - 1, count)})


def test_a_whole_index_has_no_damage(index: Path) -> None:
    assert index_damage(index, read_manifest(index).revision) == []
    assert unrecorded_files(index) == []


def test_one_flipped_bit_of_any_file_is_told_by_its_name(index: Path) -> None:
    files = [file for file in index.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".faiss", ".safetensors"}
    for file in files:
        whole = file.read_bytes()
        for place in places(file, 60 if file.name == "manifest.json" else 9):
            flipped(file, place)
            (found,) = index_damage(index)
            assert found.file == str(file.relative_to(index)), (file, place)
            file.write_bytes(whole)
    assert index_damage(index) == []


def test_what_the_engine_reads_is_told_from_what_was_changed(index: Path) -> None:
    """A bit of a number, a name or a list that is still JSON."""
    text = (index / "manifest.json").read_text()
    assert '"float16"' in text and '"token_budget": 4096' in text
    for before, after in (('"token_budget": 4096', '"token_budget": 4097'), ('"final"', '"fined"')):
        with pytest.raises(CorruptIndex, match=r"manifest\.json.*checksum"):
            parse_manifest(text.replace(before, after))
        with pytest.raises(CorruptIndex, match=r"manifest\.json.*checksum"):
            parse_recorded(text.replace(before, after))


def test_a_manifest_of_an_earlier_version_has_no_checksum_and_is_read(index: Path) -> None:
    values = json.loads((index / "manifest.json").read_text())
    del values["checksum"]
    (index / "manifest.json").write_text(json.dumps(values, indent=1) + "\n")
    assert index_damage(index) == []
    assert IndexStore.open(index).manifest.rows == 7


def test_missing_and_unknown_files_are_told(index: Path) -> None:
    (index / "curvature" / "factors.safetensors").unlink()
    (index / "shards" / "00001.faiss").unlink()
    (index / "shards" / "00009.faiss").write_bytes(b"")
    assert [found.file for found in index_damage(index)] == ["shards/00001.faiss", "curvature/factors.safetensors"]
    assert unrecorded_files(index) == ["shards/00009.faiss"]


def test_another_revision_or_an_unfinished_index_is_told(index: Path, tmp_path: Path) -> None:
    assert "revision" in index_damage(index, "another")[0].reason
    IndexStore.open_or_create(tmp_path / "begun", make_manifest())
    assert "building" in index_damage(tmp_path / "begun")[0].reason
    assert index_damage(tmp_path / "nowhere")[0].file == "manifest.json"


def test_the_fields_are_those_of_the_manifest() -> None:
    fields = {field.name for field in dataclasses.fields(Manifest)}
    assert fields | {"dims", "checksum"} == MANIFEST_FIELDS
    searched = SearchRecord("ivf", 3, 1, 0.97, 0.02, 256, 96)
    written = make_manifest(compression=Compression(4, 7), search=searched).to_json()
    assert json.loads(written).keys() == MANIFEST_FIELDS
    assert parse_recorded(written).rows == 7


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), lambda v: st.lists(v) | st.dictionaries(
    st.sampled_from(sorted(MANIFEST_FIELDS)), v)).map(json.dumps))  # fmt: skip
def test_any_text_is_a_manifest_or_a_named_error(text: str) -> None:
    for read in (parse_recorded, parse_manifest):
        with pytest.raises(EngineError):
            read(text)


# --- datasets ---


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return tmp_path / "datasets" / store_dataset(source, format=None, root=tmp_path / "datasets").sha256


def test_a_changed_byte_of_the_rows_is_told_or_changes_nothing(dataset: Path) -> None:
    """Arrow pads its buffers: a byte of the padding holds nothing. None makes the check fall over."""
    file = dataset / "rows.arrow"
    whole, examples = file.read_bytes(), list(open_dataset(dataset))
    assert dataset_damage(dataset, len(ROWS)) is None
    told = 0
    for place in range(0, len(whole), 11):
        flipped(file, place)
        if reason := dataset_damage(dataset, len(ROWS)):
            told += 1
            assert reason.endswith(".") and "\n" not in reason
        else:
            assert list(open_dataset(dataset)) == examples
        file.write_bytes(whole)
    assert told > 40


def test_rows_that_are_missing_cut_off_or_others_are_told(dataset: Path) -> None:
    file = dataset / "rows.arrow"
    assert "2" in (dataset_damage(dataset, 2) or "")
    other = dataset.rename(dataset.with_name("0" * 64))
    assert "hash" in (dataset_damage(other) or "")
    (other / "rows.arrow").write_bytes((other / "rows.arrow").read_bytes()[:500])
    assert "cannot be read" in (dataset_damage(other) or "")
    assert "missing" in (dataset_damage(file.parent) or "")


# --- evaluations ---


@pytest.fixture
def evaluation(tmp_path: Path, index: Path) -> Path:
    work = tmp_path / "evaluation"
    outcomes = OutcomeStore(work / "retrainings", "study")
    outcomes.write_plan(width=4)
    outcomes.write(Variant("full/0", 0), np.array([0.25, -1.5]))
    (work / "scores").mkdir()
    np.savez(work / "scores" / "own.npz", scores=np.arange(40, dtype=np.float32))
    np.savez(work / "evidence.npz", half=np.ones((4, 5)))
    (work / "indexes").mkdir()
    index.rename(work / "indexes" / "twin")
    return work


def test_one_changed_byte_of_what_an_evaluation_keeps_is_told_by_its_name(evaluation: Path) -> None:
    assert evaluation_damage(evaluation) == []
    kinds = ("scores/own.npz", "evidence.npz", "indexes/twin/shards/00000.faiss", "indexes/twin/manifest.json")
    outcome = next((evaluation / "retrainings" / "runs").iterdir())
    for file in (*(evaluation / name for name in kinds), outcome):
        whole = file.read_bytes()
        flipped(file, len(whole) // 2)
        (found,) = evaluation_damage(evaluation)
        assert evaluation / found.file == file
        file.write_bytes(whole[: len(whole) // 3])
        (found,) = evaluation_damage(evaluation)
        assert evaluation / found.file == file
        file.write_bytes(whole)
    (evaluation / "retrainings" / "plan.json").write_text("{")
    assert [found.file for found in evaluation_damage(evaluation)] == ["retrainings/plan.json"]


def test_an_unfinished_index_of_an_evaluation_is_no_damage(evaluation: Path) -> None:
    IndexStore.open_or_create(evaluation / "indexes" / "begun", make_manifest())
    assert evaluation_damage(evaluation) == []


def test_nothing_of_this_needs_numpy_or_torch() -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('numpy', 'torch', 'faiss', 'safetensors')))"
    needed = "import engine.integrity, engine.dataset.verifying, engine.evaluate.integrity"
    assert subprocess.run([sys.executable, "-c", f"{absent}; {needed}"], check=False).returncode == 0


def test_recorded_index_names_its_files(index: Path) -> None:
    recorded = recorded_index(index)
    assert recorded.state == "ready" and recorded.rows == 7 and len(recorded.files) == 7
