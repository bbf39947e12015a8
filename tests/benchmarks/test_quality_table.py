"""The quality benchmark's table: a perfect method tops it, a reversed one ends it, and what is undefined is empty.

Shapes: Q questions, N rows, M subsets, R seeds, V directions.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks import report
from benchmarks.quality import table, world
from benchmarks.quality.detection import Relevance, detection, relevance
from benchmarks.quality.kept import as_kept, keep, kept
from benchmarks.quality.table import MethodScores, print_table, run_summary, table_rows
from benchmarks.quality.truth import Truth

QUESTIONS, ROWS, SUBSETS, DIRECTIONS = 12, 50, 20, 4
EFFECT_QN = np.random.default_rng(0).normal(size=(QUESTIONS, ROWS))


def additive_truth(noise: float = 0.3, drop_seeds: int = 3) -> Truth:
    """A world in which removing rows adds up, and seeds add noise, but for the audited run's own."""
    random = np.random.default_rng(1)
    half_MN = np.stack([random.permutation(ROWS) < ROWS // 2 for _ in range(SUBSETS)])
    drop_MN = np.stack([random.permutation(ROWS) >= 3 for _ in range(SUBSETS)])
    half_QMR = (EFFECT_QN @ half_MN.T)[:, :, None] + noise * random.normal(size=(QUESTIONS, SUBSETS, 2))
    drop_QMR = (EFFECT_QN @ drop_MN.T)[:, :, None] + noise * random.normal(size=(QUESTIONS, SUBSETS, drop_seeds))
    drop_QMR[:, :, 0] = EFFECT_QN @ drop_MN.T
    step_QV = random.normal(size=(QUESTIONS, DIRECTIONS))
    full_QR = np.zeros((QUESTIONS, drop_seeds))
    return Truth(half_MN, half_QMR, drop_MN, drop_QMR, full_QR, step_QV, 2 * step_QV)


def known() -> Relevance:
    """Each fact question's four largest effects are its true rows and the next two its decoys."""
    order_QN = np.argsort(-EFFECT_QN, axis=1)
    place_QN = np.argsort(order_QN, axis=1)
    return Relevance(
        kind_Q=np.array(["fact"] * 8 + ["poison"] * 2 + ["task"] * 2),
        true_QN=place_QN < 4,
        decoy_QN=(place_QN >= 4) & (place_QN < 6),
        lengths_N=np.arange(ROWS),
        labelled_N=np.arange(ROWS) < 20,
        mislabelled_N=np.arange(ROWS) < 3,
    )


def methods() -> list[MethodScores]:
    random = np.random.default_rng(2)
    self_scores_N = np.where(np.arange(ROWS) < 3, 2.0, 1.0)
    self_scores_N[20:] = 9.0  # rows without a label must not count
    return [
        MethodScores("perfect", "whence", EFFECT_QN, 1.5, 64.0, {"damping": "0.1"}, "0.1", self_scores_N),
        MethodScores("noisy peer", "peer a", EFFECT_QN + random.normal(size=EFFECT_QN.shape)),
        MethodScores("noisier peer", "peer b", EFFECT_QN + 4 * random.normal(size=EFFECT_QN.shape)),
        MethodScores("random", "control", random.normal(size=EFFECT_QN.shape)),
        MethodScores("reversed", "control", -EFFECT_QN),
        MethodScores("constant", "control", np.ones_like(EFFECT_QN)),
    ]


TRUTH = additive_truth()
TABLE = {row["method"]: row for row in table_rows("smooth", methods(), TRUTH, known())}


@pytest.mark.parametrize("regime", ["half", "drop", "drop over seeds"])
def test_the_perfect_method_tops_every_regime_and_the_reversed_one_ends_it(regime: str) -> None:
    lds = {name: row[regime]["lds"] for name, row in TABLE.items() if row[regime]["lds"] is not None}
    assert max(lds, key=lds.__getitem__) == "perfect"
    assert min(lds, key=lds.__getitem__) == "reversed"
    assert lds["reversed"] == pytest.approx(-lds["perfect"])
    assert TABLE["perfect"][regime]["significant share"] == 1.0
    assert TABLE["random"][regime]["low"] < 0 < TABLE["random"][regime]["high"]


def test_lds_is_the_mean_spearman_of_summed_scores_and_seed_averaged_outcomes() -> None:
    peer = methods()[1]
    expected = [
        spearmanr(scores_N @ TRUTH.half_kept_MN.T, outcome_MR.mean(1)).statistic
        for scores_N, outcome_MR in zip(peer.scores_QN, TRUTH.half_outcome_QMR, strict=True)
    ]
    assert TABLE["noisy peer"]["half"]["lds"] == pytest.approx(np.mean(expected), abs=1e-12)


def test_drop_uses_the_audited_runs_seed_alone_and_its_ceiling_is_one() -> None:
    assert TABLE["perfect"]["drop"]["lds"] == pytest.approx(1.0)
    assert TABLE["perfect"]["drop"]["lds / ceiling"] == TABLE["perfect"]["drop"]["lds"]
    assert TABLE["perfect"]["drop over seeds"]["lds"] < 1.0


def test_lds_over_the_ceiling_of_a_perfect_method_is_near_one() -> None:
    """Half of the outcomes' variance and more is the seed's here."""
    rows = table_rows("noisy", methods()[:1], additive_truth(noise=4.0), known())
    assert rows[0]["half"]["lds"] < 0.95
    assert rows[0]["half"]["lds / ceiling"] == pytest.approx(1.0, abs=0.08)


def test_differences_are_to_the_best_peer_and_the_best_peer_has_none() -> None:
    assert {row["half"]["best peer"] for row in TABLE.values()} == {"noisy peer"}
    expected = TABLE["perfect"]["half"]["lds"] - TABLE["noisy peer"]["half"]["lds"]
    assert TABLE["perfect"]["half"]["difference"] == pytest.approx(expected)
    assert TABLE["perfect"]["half"]["difference low"] > 0
    assert TABLE["perfect"]["half"]["p"] < 0.01
    assert TABLE["random"]["half"]["difference high"] < 0
    assert TABLE["noisy peer"]["half"]["difference"] is TABLE["noisy peer"]["half"]["p"] is None


def test_without_a_peer_nothing_is_compared() -> None:
    rows = table_rows("smooth", [methods()[0], methods()[3]], TRUTH, known())
    assert {row["half"]["best peer"] for row in rows} == {None}
    assert {row["half"]["difference"] for row in rows} == {None}


def test_a_constant_method_is_undefined_not_zero() -> None:
    row = TABLE["constant"]
    assert row["half"]["lds"] is row["half"]["low"] is row["half"]["lds / ceiling"] is None
    assert row["half"]["undefined"] == QUESTIONS
    assert row["detection"]["truth over decoys"] == 0.5
    assert row["detection"]["P@3"] is row["detection"]["top-1 concentration"] is None


def test_detection_columns_of_perfect_and_reversed_rankings() -> None:
    perfect, reverse = TABLE["perfect"]["detection"], TABLE["reversed"]["detection"]
    for name in ("P@3", "recall@10", "truth over decoys", "poison AUPRC", "poison recall", "mislabelled AUROC"):
        assert perfect[name] == 1.0
    assert reverse["P@3"] == reverse["truth over decoys"] == reverse["poison recall"] == 0.0
    assert reverse["mislabelled AUROC"] is None
    assert perfect["top-1 concentration"] < 0.5
    assert abs(perfect["length correlation"]) < 0.2


def test_a_hub_and_a_ranking_by_length_show() -> None:
    hub_QN, length_QN = np.zeros((QUESTIONS, ROWS)), np.tile(np.arange(ROWS, dtype=float), (QUESTIONS, 1))
    hub_QN[:, 7] = 1.0
    assert detection(hub_QN, None, known())["top-1 concentration"] == 1.0
    assert detection(length_QN, None, known())["length correlation"] == pytest.approx(1.0)


def test_relevance_marks_the_worlds_own_rows() -> None:
    rows, questions = world.rows(), world.questions()
    marked = relevance(rows, questions)
    for q in (0, 17, 52, -1):
        assert {rows[n].id for n in np.flatnonzero(marked.true_QN[q])} == set(questions[q].true_ids)
        assert {rows[n].id for n in np.flatnonzero(marked.decoy_QN[q])} == set(questions[q].decoy_ids)
    assert marked.mislabelled_N.sum() == 10
    assert (marked.labelled_N >= marked.mislabelled_N).all()


def test_one_seed_has_no_ceiling_and_no_regime_over_seeds() -> None:
    truth = additive_truth(drop_seeds=1)
    truth = replace(truth, half_outcome_QMR=truth.half_outcome_QMR[:, :, :1])
    (row,) = table_rows("quick", methods()[:1], truth, known())
    assert "drop over seeds" not in row
    assert row["half"]["lds / ceiling"] is None
    assert run_summary("quick", truth)["half"]["ceiling"] is None
    print_table("quick", [row])


def test_the_runs_summary_tells_how_smooth_it_is_and_how_far_seeds_agree() -> None:
    summary = run_summary("smooth", TRUTH)
    assert summary["metasmoothness"]["value"] == 1.0  # each second step repeats the first
    assert summary["half"]["subsets"] == SUBSETS
    assert summary["half"]["seeds"] == 2
    assert summary["half"]["rows removed"] == ROWS - ROWS // 2
    assert 0.9 < summary["half"]["reliability"] < summary["half"]["ceiling"] < 1
    json.dumps(summary, allow_nan=False)


def test_the_table_prints_and_is_fit_for_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    print_table("smooth", list(TABLE.values()))
    printed = capsys.readouterr().out
    assert "noisy peer" in printed
    assert "—" in printed
    path = report.write("quality", "command", list(TABLE.values()), runs=[run_summary("smooth", TRUTH)])
    content = json.loads(path.read_text())
    assert [row["method"] for row in content["rows"]] == list(TABLE)
    assert content["runs"][0]["recipe"] == "smooth"


def test_a_nan_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    with pytest.raises(ValueError):
        report.write("quality", "command", [{"lds": float("nan")}])
    assert not list(tmp_path.iterdir())


def test_what_is_kept_comes_back_and_is_the_same_bytes_again(tmp_path: Path) -> None:
    rounded = as_kept(methods())
    first = keep("smooth", TRUTH, rounded, tmp_path).read_bytes()
    assert keep("smooth", TRUTH, rounded, tmp_path).read_bytes() == first
    truth, scores = kept("smooth", tmp_path)
    for name, array in vars(TRUTH).items():
        np.testing.assert_array_equal(getattr(truth, name), array)
    assert list(scores) == [method.name for method in rounded]
    np.testing.assert_array_equal(scores["perfect"], rounded[0].scores_QN)


def test_what_is_kept_holds_scores_of_any_size_to_one_part_in_ten_thousand() -> None:
    huge = MethodScores("huge", "whence", EFFECT_QN * 1e60)
    tiny = MethodScores("tiny", "whence", EFFECT_QN * 1e-60)
    zero = MethodScores("zero", "whence", 0 * EFFECT_QN)
    for method in as_kept([huge, tiny]):
        assert method.scores_QN.dtype == np.float32
        scale_Q1 = method.scores_QN[:, :1] / EFFECT_QN[:, :1]
        np.testing.assert_allclose(method.scores_QN, scale_Q1 * EFFECT_QN, rtol=5e-4, atol=1e-12)
    np.testing.assert_array_equal(as_kept([zero])[0].scores_QN, 0)
    (row,) = table.table_rows("smooth", as_kept([huge]), TRUTH, known())
    assert row["half"]["lds"] == pytest.approx(TABLE["perfect"]["half"]["lds"], abs=1e-3)
