"""manifest.json: self-describing, checked on reading, strict about what may be resumed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CorruptIndex, FingerprintMismatch, IndexUnavailable
from engine.manifest import Block, block_scale, lay_out, parse_manifest, read_manifest, write_manifest
from tests.engine.index_factory import make_manifest


def test_blocks_are_laid_out_checkpoint_by_checkpoint_without_gaps() -> None:
    assert lay_out([("a", 2, 3), ("b", 1, 4)], 2) == (
        Block(0, "a", 2, 3, 0),
        Block(0, "b", 1, 4, 6),
        Block(1, "a", 2, 3, 10),
        Block(1, "b", 1, 4, 16),
    )


def test_a_manifest_reads_back_as_it_was_written(tmp_path: Path) -> None:
    manifest = make_manifest(warnings=("2 rows were truncated",), coverage={"share": 0.5}, timings_s={"sketch": 1.5})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_the_file_says_how_many_numbers_a_row_has(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert values["dims"] == 10
    assert values["blocks"][1] == {
        "checkpoint": 0, "module": "model.layers.0.up_proj", "rows": 1, "cols": 4, "offset": 6, "scale": 1.0,
    }  # fmt: skip


def test_an_unknown_schema_version_is_refused_by_its_number() -> None:
    text = make_manifest().to_json().replace('"schema_version": 1', '"schema_version": 7')
    with pytest.raises(IndexUnavailable, match=r"schema version 7.*reads 1"):
        parse_manifest(text)


def test_every_checkpoint_owns_one_run_of_columns() -> None:
    manifest = make_manifest(blocks=lay_out([("a", 2, 3), ("b", 1, 4)], 3), checkpoints=("c0", "c1", "c2"))
    assert manifest.checkpoint_columns() == [slice(0, 10), slice(10, 20), slice(20, 30)]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "not json", '{"schema_version": 1}', make_manifest().to_json().replace('"dims": 10', '"dims": 11')],
)
def test_an_unreadable_manifest_is_named(text: str) -> None:
    with pytest.raises((CorruptIndex, IndexUnavailable), match=r"manifest\.json"):
        parse_manifest(text)


def test_a_directory_without_a_manifest_holds_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexUnavailable, match=r"manifest\.json is missing"):
        read_manifest(tmp_path / "idx_1")


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 0},
        {"checkpoints": ()},
        {"blocks": ()},
        {"dtype": "int4"},
        {"plan": {}},
        {"blocks": (Block(0, "a", 2, 3, 1),)},
        {"blocks": (Block(0, "a", 2, 3, 0), Block(0, "b", 1, 1, 5))},
        {"blocks": (Block(1, "a", 2, 3, 0),)},
        {"blocks": (Block(1, "a", 1, 1, 0), Block(0, "a", 1, 1, 1)), "checkpoints": ("c0", "c1")},
        {"blocks": (Block(0, "a", 2, 3, 0, scale=0.0),)},
        {"blocks": (Block(0, "a", 2, 3, 0, scale=float("nan")),)},
    ],
)
def test_a_manifest_that_contradicts_itself_cannot_be_made(changes: dict) -> None:
    with pytest.raises(ValueError):
        make_manifest(**changes)


def test_another_build_is_refused_naming_everything_that_differs() -> None:
    mine = make_manifest()
    other = make_manifest(
        fingerprints={"model": "m2", "dataset": "d1"}, plan={"shard_rows": 4, "token_budget": 4096}, dtype="float32"
    )
    with pytest.raises(FingerprintMismatch) as caught:
        mine.require_same_build(other)
    assert caught.value.context["differing"] == ["dtype", "fingerprints.model", "plan.shard_rows"]


def test_tuples_and_block_scales_do_not_make_it_another_build() -> None:
    mine = parse_manifest(make_manifest(options={"modules": ("a", "b")}).to_json()).with_scales([4.0, 0.5])
    mine.require_same_build(make_manifest(options={"modules": ("a", "b")}))


def test_a_query_with_another_fingerprint_is_refused() -> None:
    manifest = make_manifest()
    manifest.require_fingerprints({"model": "m1"})
    with pytest.raises(FingerprintMismatch, match="another model"):
        manifest.require_fingerprints({"model": "m2", "dataset": "d1"})


def test_the_revision_follows_contents_not_timings() -> None:
    manifest = make_manifest()
    assert manifest.computed_revision() == dataclasses.replace(manifest, timings_s={"sketch": 9.0}).computed_revision()
    assert manifest.computed_revision() != manifest.with_scales([2.0, 1.0]).computed_revision()


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_a_block_scale_is_a_power_of_two_that_keeps_the_calibrated_maximum_in_range(largest: float) -> None:
    scale = block_scale(largest)
    assert np.frexp(scale)[0] == 0.5
    assert largest * scale <= 256 or scale == 2.0**-100
    assert largest == 0 or largest * scale > 128 or scale == 2.0**100


def test_shards_cover_the_rows_and_the_last_one_is_shorter() -> None:
    manifest = make_manifest(rows=7)
    assert [manifest.shard_bounds(i) for i in range(manifest.shard_count)] == [(0, 3), (3, 6), (6, 7)]
    with pytest.raises(IndexError, match="shard 3 of 3"):
        manifest.shard_bounds(3)
