"""What can be measured beside a log-probability: log-odds, and the mean over a set of queries.

Shapes: N rows, C columns, V vocabulary, D all tracked numbers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.answer import attribute, score_query
from engine.build import build_index
from engine.capture import log_odds
from engine.config import IndexConfig, IndexOptions, ModelConfig, Recipe
from engine.errors import EmptyCompletion, EngineError, InvalidQuery
from engine.model import load_model
from engine.opened import OpenIndex
from engine.types import AskOptions, Attribution, Generate, Query, Span
from tests import factories, oracles
from tests.engine.contract_world import answer
from tests.engine.tuned_world import ROWS, TunedWorld


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> TunedWorld:
    return TunedWorld(tmp_path_factory.mktemp("measurements"))


# --- log-odds ---


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 9), st.integers(0, 2**31))
def test_log_odds_and_their_gradient_are_those_of_the_formula(rows: int, columns: int, words: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_BCV = torch.randn(rows, columns, words, generator=generator, dtype=torch.float64, requires_grad=True)
    targets_BC = torch.randint(0, words, (rows, columns), generator=generator)
    p_BC = logits_BCV.softmax(-1).gather(-1, targets_BC.unsqueeze(-1)).squeeze(-1)
    expected = torch.log(p_BC / (1 - p_BC))
    found = log_odds(logits_BCV, targets_BC)
    torch.testing.assert_close(found, expected)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), logits_BCV)
    (gradient,) = torch.autograd.grad(found.sum(), logits_BCV)
    torch.testing.assert_close(gradient, expected_gradient)
    step, moved = 1e-6, logits_BCV.detach().clone()
    moved[0, 0, 0] += step
    slope = (log_odds(moved, targets_BC) - found.detach()).sum() / step
    assert float(slope) == pytest.approx(float(gradient[0, 0, 0]), abs=1e-5)


@pytest.mark.parametrize("gap", [10.0, 20.0, 80.0])
def test_log_odds_are_exact_where_the_probability_rounds_to_one(gap: float) -> None:
    """In float32, 1 − p is gone from a gap of 17 on; log p's gradient with it."""
    logits_11V = torch.tensor([[[gap, 0.0, -1.0]]], requires_grad=True)
    value_11 = log_odds(logits_11V, torch.tensor([[0]]))
    expected = gap - np.log(1 + np.exp(-1.0))
    assert float(value_11.detach()) == pytest.approx(expected, rel=1e-6)
    (gradient_11V,) = torch.autograd.grad(value_11.sum(), logits_11V)
    share = 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(gradient_11V.flatten().numpy(), [1.0, -share, share - 1], rtol=1e-5)


def odds_gradient(world: TunedWorld, row: int, state: int) -> tuple[float, torch.Tensor]:
    """(Σ log(p/(1−p)), its gradient [D]) by autograd, from probabilities."""
    encoded, tracked, module = world.rows[row], world.model.tracked(None), world.model.module
    world.model.use(state)
    module.requires_grad_(True)
    log_probs_TV = module(input_ids=torch.tensor([encoded.ids]), use_cache=False).logits[0].log_softmax(-1)
    targets = [t for t in range(1, len(encoded.ids)) if encoded.targets[t]]
    p_J = torch.stack([log_probs_TV[t - 1, encoded.ids[t]] for t in targets]).exp()
    value = torch.log(p_J / (1 - p_J)).sum()
    parts = oracles.gradients(world.model, tracked, value)
    module.requires_grad_(False)
    return float(value.detach()), oracles.flat(parts, tracked)


def test_a_log_odds_query_scores_by_the_gradient_of_its_log_odds(world: TunedWorld) -> None:
    """The rows' side stays the gradient of their log-probability: that is what training raises."""
    index = world.index("graddot", "final")
    tracked = world.model.tracked(None)
    value, gradient_D = odds_gradient(world, 4, -1)
    rows_ND = torch.stack(
        [oracles.flat(oracles.example_gradients(world.model, tracked, r), tracked) for r in world.rows]
    )
    expected_N = (rows_ND @ gradient_D).numpy()
    found_N = score_query(index, world.query(4, measurement="log_odds"))
    assert np.abs(found_N - expected_N).max() <= 2e-5 * np.abs(expected_N).max()
    result = answer(index, world.query(4, measurement="log_odds"))
    assert result.measurement.kind == "log_odds"
    assert result.measurement.value == pytest.approx(value, rel=1e-9)


def test_tuned_minus_base_and_contrasts_are_of_the_log_odds_too(world: TunedWorld) -> None:
    index = world.index("graddot", "final")

    def f(completion: str) -> float:
        encoded = world.model.encoder().encode_query(prompt="the cat", completion=completion)
        with torch.no_grad():
            logits_TV = world.model.module(input_ids=torch.tensor([encoded.ids]), use_cache=False).logits[0]
        p_TV = logits_TV.softmax(-1)
        targets = [t for t in range(1, len(encoded.ids)) if encoded.targets[t]]
        return float(sum(torch.logit(p_TV[t - 1, encoded.ids[t]]) for t in targets))

    query = Query(prompt="the cat", completion=" sat", contrast=" ran home", measurement="log_odds")
    found = answer(index, query)
    world.model.use(-1)
    tuned = f(" sat") - f(" ran home")
    with world.model.module.disable_adapter():  # type: ignore[operator]
        base = f(" sat") - f(" ran home")
    assert found.measurement.kind == "contrastive_log_odds"
    assert found.measurement.value == pytest.approx(tuned, rel=1e-9)
    assert found.tuned_minus_base == pytest.approx(tuned - base, rel=1e-9)


@pytest.mark.parametrize("method", ["graddot", "ekfac"])
def test_log_odds_and_log_probabilities_in_one_batch_do_not_mix(world: TunedWorld, method: str) -> None:
    """Queries of other lengths beside each other: neither pads nor the neighbours' measurement count."""
    index = world.index(method)
    queries = [world.query(i, measurement=("log_prob", "log_odds")[i % 2]) for i in range(6)]
    together = attribute(index, [(query, AskOptions(top_k=ROWS)) for query in queries])
    for query, found in zip(queries, together, strict=True):
        alone = world.ask(index, query)
        assert isinstance(found, Attribution)
        assert found.measurement.kind == alone.measurement.kind
        assert found.measurement.value == pytest.approx(alone.measurement.value, rel=1e-9)
        for one, two in zip(found.proponents, alone.proponents, strict=True):
            assert one.example_id == two.example_id and one.score == pytest.approx(two.score, rel=1e-4)


@pytest.fixture(scope="module")
def certain(tmp_path_factory: pytest.TempPathFactory) -> OpenIndex:
    """A float32 model whose head is so large that its own greedy answer has probability one."""
    root = tmp_path_factory.mktemp("certain")
    base = factories.llama(hidden=8, layers=1)
    letters = factories.save_tokenizer(root / "letters").convert_tokens_to_ids(list("abcdefghij"))
    with torch.no_grad():  # other tokens' logits are zero: what is generated is text, and is tokenised as it was made
        kept_VH = base.lm_head.weight[letters] * 300
        base.lm_head.weight.zero_()
        base.lm_head.weight[letters] = kept_VH
    factories.save_base(root / "base", base)
    adapter = factories.save_adapter(root / "adapter", base, 1, r=2)
    model = load_model(ModelConfig(str(root / "base"), checkpoints=(str(adapter),), recipe=Recipe()))
    data = factories.dataset(root / "data", factories.sentences(6))
    options = IndexOptions(dtype="float32")
    build_index(model, data, IndexConfig("graddot", options=options), root / "index", factories.ignore)
    return OpenIndex(model, data, root / "index")


def test_a_saturated_output_is_pointed_to_the_log_odds_which_still_have_a_gradient(certain: OpenIndex) -> None:
    greedy = Query(prompt="the cat", generate=Generate(4))
    plain = answer(certain, greedy)
    odds = answer(certain, Query(prompt="the cat", generate=Generate(4), measurement="log_odds"))
    assert any('measurement: "log_odds"' in warning for warning in plain.diagnostics.warnings)
    assert not any("nearly certain" in warning for warning in odds.diagnostics.warnings)
    assert np.isfinite(odds.measurement.value)
    largest = []
    for measurement in ("log_prob", "log_odds"):
        span = Span(0, len(plain.completion))  # without the EOS, which is anything but certain
        spelled = Query(prompt="the cat", completion=plain.completion, span=span, measurement=measurement)
        largest.append(np.abs(score_query(certain, spelled)).max())
    assert largest[1] > 100 * largest[0]


# --- the mean over a set ---

SET = (
    Query(prompt="the cat", completion=" sat"),
    Query(prompt="a dog", completion=" ran home", contrast=" sat"),
    Query(prompt="old tree", completion=" and new", span=Span(1, 4)),
)


@pytest.mark.parametrize("measurement", ["log_prob", "log_odds"])
@pytest.mark.parametrize("method", ["graddot", "ekfac"])
def test_a_sets_scores_and_value_are_the_means_of_its_members(world: TunedWorld, method: str, measurement: str) -> None:
    """One checkpoint: nothing is scaled."""
    index = world.index(method, "final")
    members = [Query(**{**vars(member), "measurement": measurement}) for member in SET]
    alone = [answer(index, member) for member in members]
    expected_N = np.mean([score_query(index, member).astype(np.float64) for member in members], axis=0)
    query = Query(members=SET, measurement=measurement)  # type: ignore[arg-type]
    np.testing.assert_allclose(score_query(index, query), expected_N, rtol=1e-4, atol=1e-6 * np.abs(expected_N).max())
    found = answer(index, query)
    assert found.measurement.kind == f"mean_contrastive_{measurement}"
    assert found.measurement.value == pytest.approx(np.mean([a.measurement.value for a in alone]), rel=1e-9)
    assert found.measurement.tokens == sum(a.measurement.tokens for a in alone)
    assert found.tuned_minus_base == pytest.approx(np.mean([a.tuned_minus_base or np.nan for a in alone]), rel=1e-9)
    assert found.members is not None and [m.prompt for m in found.members] == ["the cat", "a dog", "old tree"]


def test_an_ensemble_is_scaled_by_the_sets_own_norm(world: TunedWorld) -> None:
    """Σ_c ⟨mean gradient, z⟩ / ‖mean gradient‖, not the mean of the members' scaled scores."""
    index = world.index("graddot")
    members = (world.query(1), world.query(6))
    tracked, expected_N = world.model.tracked(None), np.zeros(ROWS)
    for state in range(2):
        world.model.use(state)
        rows = [oracles.flat(oracles.example_gradients(world.model, tracked, r), tracked) for r in world.rows]
        mean_D = (rows[1] + rows[6]) / 2
        expected_N += (torch.stack(rows) @ mean_D / mean_D.norm()).numpy()
    found_N = score_query(index, Query(members=members))
    np.testing.assert_allclose(found_N, expected_N, rtol=1e-4, atol=1e-6 * np.abs(expected_N).max())


@pytest.mark.parametrize("measurement", ["log_prob", "log_odds"])
@pytest.mark.parametrize("method", ["graddot", "ekfac"])
def test_shares_of_a_set_add_up_over_the_tokens_of_all_members(
    world: TunedWorld, method: str, measurement: str
) -> None:
    query = Query(members=(SET[0], SET[2]), measurement=measurement)  # type: ignore[arg-type]
    result = world.ask(world.index(method), query, tokens=True, modules=True)
    assert [token.member for token in result.tokens] == sorted(token.member for token in result.tokens)
    assert {token.member for token in result.tokens} == {0, 1}
    largest = max(abs(hit.score) for hit in (*result.proponents, *result.opponents))
    for hit in (*result.proponents, *result.opponents):
        assert hit.position_shares and hit.query_token_scores and hit.train_position_shares and hit.module_scores
        assert len(hit.position_shares) == len(hit.query_token_scores) == len(result.tokens)
        parts = (hit.position_shares, hit.query_token_scores, hit.train_position_shares, hit.module_scores.values())
        assert [sum(part) for part in parts] == pytest.approx([hit.score] * 4, abs=1e-4 * largest)
        untargeted = [s for s, t in zip(hit.query_token_scores, result.tokens, strict=True) if not t.target]
        assert not any(untargeted)


def test_shares_of_a_contrast_within_a_set_are_its_completions_part(world: TunedWorld) -> None:
    index = world.index("graddot", "final")
    with_contrast = world.ask(index, Query(members=(SET[0], SET[1])), tokens=True)
    completions = (SET[0], Query(prompt="a dog", completion=" ran home"))
    own = score_query(index, Query(members=completions))
    assert any("of the completion alone" in warning for warning in with_contrast.diagnostics.warnings)
    for hit in (*with_contrast.proponents, *with_contrast.opponents):
        assert sum(hit.position_shares or ()) == pytest.approx(float(own[hit.position]), rel=1e-3, abs=1e-4)


def test_lexical_methods_read_every_member_of_a_set(world: TunedWorld) -> None:
    index = world.index("graddot", "final")
    both = Query(members=(world.query(2), world.query(7)))
    found = {hit.position: hit.score for hit in world.ask(index, both, method="bm25").proponents}
    parts = [
        {hit.position: hit.score for hit in world.ask(index, query, method="bm25").proponents} for query in both.members
    ]
    assert found == pytest.approx({i: parts[0][i] + parts[1][i] for i in found}, rel=1e-5)


@pytest.mark.parametrize(
    ("query", "kind", "pointer"),
    [
        (Query(prompt="a", members=SET), InvalidQuery, "/queries"),
        (Query(members=(SET[0], Query(members=SET))), InvalidQuery, "/queries/1"),
        (Query(members=(SET[0], Query(prompt="a", completion=""))), EmptyCompletion, "/queries/1/completion"),
        (Query(members=(SET[0], Query(prompt="a"))), InvalidQuery, "/queries/1/completion"),
    ],
)
def test_a_set_that_is_not_well_formed_names_the_member(
    world: TunedWorld, query: Query, kind: type[EngineError], pointer: str
) -> None:
    refusal = attribute(world.index("graddot", "final"), [(query, AskOptions())])[0]
    assert isinstance(refusal, kind) and refusal.pointer == pointer


def test_one_outlier_row_tops_every_query_until_scores_are_cosines(tmp_path: Path) -> None:
    """A long row among short ones has a large gradient; it is first whatever is asked, and its warning says so."""
    rows = factories.sentences(12, seed=2, longest=2)
    rows[5] = {"id": "outlier", "prompt": "the", "completion": " zq" * 24}
    world = TunedWorld(tmp_path, rows)
    index, unit = world.index("graddot", "final"), world.index("gradcos", "final")
    asked = [i for i in range(12) if i != 5]
    scores_QN = np.stack([score_query(index, world.query(i)) for i in asked])
    scores_QN[range(len(asked)), asked] = 0  # the row that is the query itself
    cosine = [answer(index, world.query(i), AskOptions(normalize="cosine")).proponents[0].position for i in asked]
    normed = [answer(unit, world.query(i)).proponents[0].position for i in asked]
    assert np.mean(np.abs(scores_QN).argmax(1) == 5) > 0.75
    assert cosine == asked and normed == asked
