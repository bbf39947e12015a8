"""DESIGN §2, point by point, through build_index() and attribute() on random Llama, GPT-2 and LoRA models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.answer import attribute, score_query
from engine.build import build_index
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe, TemplateConfig
from engine.dataset import Dataset
from engine.errors import FingerprintMismatch, MethodNotServed
from engine.model import LoadedModel, load_model
from engine.modules import TrackedModule
from engine.opened import OpenIndex
from engine.store import IndexStore
from engine.types import AskOptions, Attribution, Query
from tests import factories, oracles
from tests.engine.contract_world import KINDS, METHODS, ROWS, World, answer, digests, magnitude, save

PARTIAL = IndexOptions(allow_partial=True)  # most weights of the dense ones are embeddings


@pytest.fixture(scope="module", params=KINDS)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp(request.param), request.param)


# --- 1: the sign ---


def test_1_a_positive_score_predicts_that_training_on_the_row_raises_f(tmp_path: Path) -> None:
    """Finite differences: step the weights along ∇log p(z); f(q) changes by step × score (graddot, dense)."""
    factories.save_base(tmp_path / "base", factories.gpt2())  # Llama's RMSNorm rounds to float32 inside
    model = load_model(ModelConfig(str(tmp_path / "base"), dtype="float64", recipe=Recipe()))
    data = factories.dataset(tmp_path / "data", factories.sentences(6))
    options = IndexOptions(dtype="float32", allow_partial=True)
    build_index(model, data, IndexConfig("graddot", options=options), tmp_path / "index", factories.ignore)
    encoder, tracked = model.encoder(), model.tracked(None)
    with OpenIndex(model, data, tmp_path / "index") as index:
        query = Query(prompt=data[0].prompt, completion=data[0].completion)
        scores = score_query(index, query)
    assert (scores < 0).any() or (scores > 0).all()
    parameters = dict(model.module.named_parameters())
    encoded_query = encoder.encode(data[0])
    for row in range(len(data)):
        step = oracles.example_gradients(model, tracked, encoder.encode(data[row]))
        values = []
        for size in (1e-7, -1e-7):
            with torch.no_grad():
                _move(parameters, tracked, step, size)
                values.append(float(oracles.log_prob(model, encoded_query)))
                _move(parameters, tracked, step, -size)
        assert (values[0] - values[1]) / 2e-7 == pytest.approx(float(scores[row]), rel=1e-4, abs=1e-3)


def _move(
    parameters: dict[str, torch.Tensor], tracked: tuple[TrackedModule, ...], step: dict[str, torch.Tensor], size: float
) -> None:
    for m in tracked:
        g_OI = step[m.name]
        parameters[f"{m.path}.weight"] += size * (g_OI[:, :-1] if m.bias else g_OI).T
        if m.bias:
            parameters[f"{m.path}.bias"] += size * g_OI[:, -1]


def test_1_proponents_are_positive_and_opponents_negative(world: World) -> None:
    result = answer(world.index("graddot"), world.query(0), AskOptions(top_k=ROWS))
    assert result.signed
    assert all(hit.score > 0 for hit in result.proponents)
    assert all(hit.score < 0 for hit in result.opponents)
    assert [hit.rank for hit in result.proponents] == list(range(1, len(result.proponents) + 1))


@pytest.mark.parametrize("method", ["kfac", "ekfac", "gradcos"])
def test_1_a_duplicate_of_the_query_ranks_first_with_a_positive_score(world: World, method: str) -> None:
    """A plain dot product promises no such thing: a row with a larger gradient may outrank the duplicate."""
    for row in (0, 7):
        top = answer(world.index(method), world.query(row)).proponents[0]
        assert top.example_id == f"ex-{row}" and top.score > 0
        assert top.normalized_score == pytest.approx(1.0, abs=2e-3)
        assert top.percentile == 100.0


# --- 2: what is summed ---


def test_2_scores_are_inner_products_of_batch_one_autograd_gradients(world: World) -> None:
    """Every checkpoint's gradients through plain autograd, scaled and summed as the ensemble says."""
    index = world.index("graddot", dtype="float32")
    model, encoder, tracked = world.model, world.model.encoder(), world.model.tracked(None)
    rows = [encoder.encode(example) for example in world.dataset]
    expected = np.zeros(ROWS)
    for state in range(len(model.states)):
        model.use(state)
        gradients = torch.stack([oracles.flat(oracles.example_gradients(model, tracked, r), tracked) for r in rows])
        scores = (gradients @ gradients[5]).double().numpy()
        expected += scores if len(model.states) == 1 else scores / np.sqrt(scores[5])
    found = score_query(index, world.query(5))
    assert np.abs(found - expected).max() <= 1e-4 * magnitude(index, 5).max()


@pytest.mark.parametrize("reduction", ["example_mean", "batch_token_mean"])
def test_2_a_rows_gradient_is_its_own_term_in_the_recipes_loss(tmp_path: Path, reduction: str) -> None:
    config = save(tmp_path, "llama")
    data = factories.dataset(tmp_path / "data", factories.sentences(6))
    steps = ((0, 1, 2), (3, 4, 5), (5, 0, 1))
    recipe = Recipe(reduction=reduction, steps=steps)  # type: ignore[arg-type]
    scores = {}
    for name, used in (("sum", Recipe()), (reduction, recipe)):
        model = load_model(replace(config, recipe=used))
        options = IndexOptions(dtype="float32", allow_partial=True)
        build_index(model, data, IndexConfig("graddot", options=options), tmp_path / name, factories.ignore)
        with OpenIndex(model, data, tmp_path / name) as index:
            scores[name] = score_query(index, Query(prompt="the cat", completion=" ran"))
    counts = [sum(model.encoder().encode(example).targets) for example in data]
    per_step = [sum(counts[i] for i in step) for step in steps]
    weights = {
        "example_mean": [1 / count for count in counts],
        "batch_token_mean": [
            np.mean([1 / total for step, total in zip(steps, per_step, strict=True) if i in step]) for i in range(6)
        ],
    }[reduction]
    np.testing.assert_allclose(scores[reduction], scores["sum"] * weights, rtol=1e-4, atol=1e-5)


def test_2_an_unknown_recipe_is_said(tmp_path: Path) -> None:
    model = load_model(replace(save(tmp_path, "llama"), recipe=None))
    data = factories.dataset(tmp_path / "data", factories.sentences(4))
    info = build_index(model, data, IndexConfig("graddot", options=PARTIAL), tmp_path / "index", factories.ignore)
    assert any("recipe unknown" in warning for warning in info.warnings)


def test_2_truncation_is_counted(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, "llama"))
    rows = [*factories.sentences(3), {"prompt": "cat " * 10, "completion": " sat" * 40}]
    data = factories.dataset(tmp_path / "data", rows)
    info = build_index(model, data, IndexConfig("graddot", options=PARTIAL), tmp_path / "index", factories.ignore)
    assert any(warning.startswith("1 rows were longer") for warning in info.warnings)


# --- 3: fingerprints ---


def test_3_another_model_tokenizer_template_or_dataset_is_refused(tmp_path: Path) -> None:
    config = save(tmp_path, "llama")
    model = load_model(config)
    data = factories.dataset(tmp_path / "data", factories.sentences(5))
    build_index(model, data, IndexConfig("graddot", options=PARTIAL), tmp_path / "index", factories.ignore)
    OpenIndex(model, data, tmp_path / "index").__exit__()

    factories.save_base(tmp_path / "other", factories.llama(seed=9))
    factories.save_tokenizer(tmp_path / "no-bos", bos=False)
    others: list[tuple[str, LoadedModel, Dataset]] = [
        ("model", load_model(replace(config, base=str(tmp_path / "other"))), data),
        ("tokenizer", load_model(replace(config, tokenizer=str(tmp_path / "no-bos"))), data),
        ("template", load_model(replace(config, recipe=Recipe(template=TemplateConfig(eos=False)))), data),
        ("dataset", model, factories.dataset(tmp_path / "more", factories.sentences(5, seed=8))),
    ]
    for what, other, rows in others:
        with pytest.raises(FingerprintMismatch, match=what):
            OpenIndex(other, rows, tmp_path / "index")


def test_3_a_build_with_other_options_does_not_go_on_in_the_same_directory(tmp_path: Path) -> None:
    model = load_model(save(tmp_path, "llama"))
    data = factories.dataset(tmp_path / "data", factories.sentences(5))
    build_index(model, data, IndexConfig("graddot", options=PARTIAL), tmp_path / "index", factories.ignore)
    with pytest.raises(FingerprintMismatch):
        build_index(model, data, IndexConfig("kfac", options=PARTIAL), tmp_path / "index", factories.ignore)


# --- 4: invariance ---


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float16", 2e-3)])
def test_4_scores_do_not_depend_on_batches_shards_or_company(
    world: World, method: str, dtype: str, tolerance: float
) -> None:
    reference = world.index(method, dtype="float32")
    other = world.index(method, dtype=dtype, token_budget=40, shard_rows=5)
    assert len(other.store.manifest.shards) == 5
    for row in (2, 11):
        scale = magnitude(reference, row)
        difference = np.abs(score_query(reference, world.query(row)) - score_query(other, world.query(row)))
        assert (difference <= tolerance * scale + 1e-12).all()
    alone = answer(other, world.query(2))
    together = attribute(other, [(world.query(r), AskOptions()) for r in (0, 2, 9, 17)])[1]
    assert isinstance(together, Attribution)
    assert [h.example_id for h in together.proponents] == [h.example_id for h in alone.proponents]
    for one, two in zip(alone.proponents, together.proponents, strict=True):
        assert abs(one.score - two.score) <= 1e-4 * magnitude(other, 2).max()


@pytest.mark.parametrize("method", METHODS)
def test_4_scores_do_not_depend_on_the_order_of_rows(world: World, tmp_path: Path, method: str) -> None:
    rows = factories.sentences(ROWS, seed=3)
    order = np.random.default_rng(0).permutation(ROWS)
    shuffled = factories.dataset(tmp_path, [rows[i] for i in order])
    options = IndexOptions(curvature_rows=10, allow_partial=True)  # the sample must not depend on the order either
    build_index(world.model, shuffled, IndexConfig(method, options=options), tmp_path / "index", factories.ignore)
    with OpenIndex(world.model, shuffled, tmp_path / "index") as index:
        found = score_query(index, world.query(4))
    reference = world.index(method, curvature_rows=10)
    expected = score_query(reference, world.query(4))[order]
    assert (np.abs(found - expected) <= 2e-3 * magnitude(reference, 4)[order] + 1e-9).all()


# --- 5: additivity ---


@pytest.mark.parametrize("method", METHODS)
def test_5_modules_positions_and_tokens_add_up(world: World, method: str) -> None:
    index = world.index(method, dtype="float32")
    result = answer(index, world.query(3), AskOptions(top_k=4, tokens=True, modules=True))
    assert result.additive
    for hit in (*result.proponents, *result.opponents):
        scale = 1e-4 * magnitude(index, 3)[hit.position]
        assert hit.module_scores and hit.position_shares and hit.query_token_scores and hit.train_position_shares
        assert abs(sum(hit.module_scores.values()) - hit.score) <= scale
        assert abs(sum(hit.position_shares) - hit.score) <= scale
        assert abs(sum(hit.query_token_scores) - hit.score) <= scale
        assert abs(sum(hit.train_position_shares) - hit.score) <= scale
        assert len(hit.position_shares) == len(result.tokens)
        assert hit.train_tokens and len(hit.train_tokens) == len(hit.train_position_shares)
        untargeted = [s for s, t in zip(hit.query_token_scores, result.tokens, strict=True) if not t.target]
        assert not any(untargeted)


@pytest.mark.parametrize("method", METHODS)
def test_5_a_self_score_equals_the_pairwise_diagonal(world: World, method: str) -> None:
    index = world.index(method, dtype="float32")
    selves = index.self_scores_NC.astype(np.float64)
    scaled = selves * index.row_factors_NC  # 1 where the ensemble's p is 0
    expected = scaled[:, 0] if selves.shape[1] == 1 else (scaled / np.sqrt(selves)).sum(1)
    for row in (0, 6, 13):
        assert score_query(index, world.query(row))[row] == pytest.approx(expected[row], rel=1e-4)


def test_5_groups_are_sums_of_raw_scores(world: World) -> None:
    index = world.index("graddot")
    scores = score_query(index, world.query(1)).astype(np.float64)
    result = answer(index, world.query(1), AskOptions(group_by="tags.parity"))
    assert result.groups is not None
    by_key = {group.key: group for group in result.groups}
    for key in ("0", "1"):
        assert by_key[key].score == pytest.approx(scores[int(key) :: 2].sum(), rel=1e-6)
        assert by_key[key].count == ROWS // 2


def test_5_cosines_say_that_they_are_not_additive(world: World) -> None:
    assert not answer(world.index("gradcos"), world.query(0)).additive
    result = answer(world.index("kfac"), world.query(0), AskOptions(normalize="cosine"))
    assert not result.additive
    for hit in result.proponents:
        assert hit.score == pytest.approx(hit.normalized_score, abs=5e-3)
        assert hit.score <= 1.001


# --- 6: ties ---


def test_6_equal_rows_keep_the_order_of_their_positions(tmp_path: Path) -> None:
    """Five equal rows compete for the k-th place. (Equal stored rows tie wherever they lie: test_search.py.)"""
    model = load_model(save(tmp_path, "llama"))
    rows = factories.sentences(17, seed=5)
    for i in (2, 5, 9, 12, 16):
        rows[i] = {"id": f"twin-{i}", "prompt": "the cat", "completion": " sat"}
    data = factories.dataset(tmp_path / "data", rows)
    options = IndexOptions(token_budget=10**6, allow_partial=True)
    build_index(model, data, IndexConfig("kfac", options=options), tmp_path / "index", factories.ignore)
    with OpenIndex(model, data, tmp_path / "index") as index:
        query = Query(prompt="the cat", completion=" sat")
        for k in (1, 2, 3, 4, 5):
            hits = answer(index, query, AskOptions(top_k=k)).proponents
            assert [hit.example_id for hit in hits] == [f"twin-{i}" for i in (2, 5, 9, 12, 16)][:k]


def test_6_an_answer_is_a_pure_function_of_revision_and_request(world: World) -> None:
    index = world.index("ekfac")
    first, second = (answer(index, world.query(8), AskOptions(top_k=9)) for _ in range(2))
    assert replace(first, timings_ms={}) == replace(second, timings_ms={})


# --- 7: coverage ---


def test_7_what_is_not_tracked_is_named(world: World) -> None:
    coverage = world.model.coverage(world.model.tracked(None))
    if world.kind == "lora":
        assert coverage.share == 1.0 and not coverage.untracked
        return
    assert 0 < coverage.share < 1
    total = sum(p.numel() for p in world.model.module.parameters())
    assert coverage.trained_parameters == total
    assert coverage.tracked_parameters + sum(u.parameters for u in coverage.untracked) == total
    assert any("embed" in u.module or "wte" in u.module for u in coverage.untracked)
    assert all(u.reason for u in coverage.untracked)
    info_warnings = world.index("graddot").store.manifest.warnings
    assert any("of the trained parameters are attributed" in warning for warning in info_warnings)


def test_7_modules_left_out_by_choice_lower_the_coverage(world: World, tmp_path: Path) -> None:
    config = IndexConfig("graddot", options=IndexOptions(modules=("attn",), allow_partial=True))
    info = build_index(world.model, world.dataset, config, tmp_path / "index", factories.ignore)
    assert info.coverage.share < world.model.coverage(world.model.tracked(None)).share
    assert any("left out" in u.reason for u in info.coverage.untracked)


# --- 8: one index, one metric ---


def test_8_an_index_serves_its_own_metric_and_text_controls_only(world: World) -> None:
    index = world.index("kfac")
    assert index.store.manifest.serves == ("kfac", "bm25", "length", "random")
    with pytest.raises(MethodNotServed, match="it serves kfac"):
        answer(index, world.query(0), AskOptions(method="graddot"))
    for control in ("bm25", "length", "random"):
        result = answer(index, world.query(0), AskOptions(method=control))
        assert not result.signed and not result.additive and result.opponents == ()
        assert len(result.proponents) == 10


# --- determinism across processes ---


def test_the_same_seed_in_another_process_gives_identical_bytes(tmp_path: Path) -> None:
    config = save(tmp_path, "lora")
    factories.dataset(tmp_path / "data", factories.sentences(9))
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests import factories\n"
        "from tests.engine.test_score_contract import build_again\n"
        "build_again(Path(sys.argv[1]), 'theirs')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    build_again(tmp_path, "mine")
    assert config.checkpoints
    mine, theirs = digests(tmp_path / "mine"), digests(tmp_path / "theirs")
    assert mine == theirs and len(mine) == 3 * 2 + 3
    assert (
        IndexStore.open(tmp_path / "mine").manifest.revision == IndexStore.open(tmp_path / "theirs").manifest.revision
    )


def build_again(root: Path, name: str) -> None:
    from engine.dataset import open_dataset

    data = open_dataset(next((root / "data" / "datasets").iterdir()))
    checkpoints = (str(root / "epoch-1"), str(root / "epoch-2"))
    model = load_model(ModelConfig(str(root / "base"), checkpoints=checkpoints, recipe=Recipe()))
    options = IndexOptions(shard_rows=4, projection_dim=4)
    build_index(model, data, IndexConfig("ekfac", options=options), root / name, factories.ignore)
