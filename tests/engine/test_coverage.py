"""A build that would speak for less than half of what was trained is refused, unless that is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import Dataset
from engine.errors import InvalidOption, LowCoverage
from engine.estimate import estimate_index
from engine.loaded import LoadedModel
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.widths import MOST_NUMBERS, choose_widths
from tests import factories
from tests.engine.model_zoo import EXPERTS, family, load


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return factories.dataset(tmp_path / "data", factories.sentences(6))


@pytest.fixture
def fused(tmp_path: Path) -> LoadedModel:
    return load(tmp_path / "fused", family("Mixtral", **EXPERTS))


def test_a_model_of_fused_experts_is_refused_by_name(fused: LoadedModel, data: Dataset, tmp_path: Path) -> None:
    share = fused.coverage(fused.tracked(None)).share
    assert share < 0.5
    for attempt in (
        lambda: build_index(fused, data, IndexConfig("graddot"), tmp_path / "index", factories.ignore),
        lambda: estimate_index(fused, data, IndexConfig("graddot")),
    ):
        with pytest.raises(LowCoverage) as caught:
            attempt()
        assert f"{share:.1%}" in caught.value.detail and "mlp.experts" in caught.value.detail
        assert "allow_partial" in caught.value.remedy and caught.value.context["share"] == share
    assert not (tmp_path / "index").exists()


def test_allow_partial_builds_and_says_the_share(fused: LoadedModel, data: Dataset, tmp_path: Path) -> None:
    config = IndexConfig("graddot", options=IndexOptions(allow_partial=True))
    info = build_index(fused, data, config, tmp_path / "index", factories.ignore)
    assert info.coverage.share < 0.5
    assert any(warning.startswith(f"{info.coverage.share:.1%}") for warning in info.warnings)
    with OpenIndex(fused, data, tmp_path / "index"):
        pass


def test_methods_without_gradients_track_nothing(fused: LoadedModel, data: Dataset, tmp_path: Path) -> None:
    info = build_index(fused, data, IndexConfig("repsim"), tmp_path / "index", factories.ignore)
    assert info.coverage.share == 0 and info.rows == len(data)


def test_narrowing_by_choice_needs_no_leave(data: Dataset, tmp_path: Path) -> None:
    """`modules` leaves out what could have been tracked: the index's coverage says so, and that is all."""
    model = load(tmp_path / "model", factories.llama(tie_word_embeddings=True))
    assert model.coverage(model.tracked(None)).share > 0.5
    config = IndexConfig("graddot", options=IndexOptions(modules=("q_proj",)))
    info = build_index(model, data, config, tmp_path / "index", factories.ignore)
    assert 0 < info.coverage.share < 0.5


def test_leave_does_not_change_what_is_stored(data: Dataset, tmp_path: Path) -> None:
    model = load(tmp_path / "model", factories.llama(), {})
    infos = [
        build_index(
            model,
            data,
            IndexConfig("graddot", options=IndexOptions(allow_partial=allowed)),
            tmp_path / f"index-{allowed}",
            factories.ignore,
        )
        for allowed in (False, True)
    ]
    assert infos[0].fingerprints == infos[1].fingerprints


# --- rows that FAISS would write and not read again ---


def test_a_row_is_never_wider_than_faiss_reads() -> None:
    wide = (TrackedModule("wide", "wide", "linear", 2048, 1024, False, "wide"),)
    chosen = choose_widths(IndexOptions(), wide, 1, 4)
    assert chosen.projection is not None and chosen.dims <= MOST_NUMBERS
    with pytest.raises(InvalidOption, match="FAISS"):
        choose_widths(IndexOptions(projection_dim=0), wide, 1, 4)
