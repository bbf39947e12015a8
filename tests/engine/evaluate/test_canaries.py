"""Planted canaries: what is planted, the run that learns them, and metrics that can fail."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.build import build_index
from engine.config import IndexConfig, IndexOptions
from engine.dataset import example_text
from engine.errors import Cancelled, InvalidOption, NonFiniteGradient
from engine.evaluate import canaries as planted
from engine.evaluate.canaries import CanaryScores, canary_scores, plant
from engine.evaluate.evaluation import study_of
from engine.evaluate.evidence import EVIDENCE_FILE
from engine.evaluate.requirements import check_config
from engine.evaluate.retrieval import recall_at, reciprocal_rank
from engine.evaluate.scorecard import SHUFFLED, EvaluationConfig, Scorecard, from_json, to_json
from engine.evaluate.scored import Scorer
from engine.model import load_model
from engine.types import CheckpointFn, Example, Message, Progress
from tests import factories
from tests.engine.evaluate.evaluated_world import CONFIG, EPOCHS, ROWS, EvaluatedWorld, timeless

COUNT = 3
LEAST = replace(CONFIG, half_subsets=3, half_seeds=1, drop_subsets=0, leave_out_queries=0, directions=0, canaries=COUNT)
METRICS = {"canary recall@10", "canary MRR"}
FOUND_BY = {"graddot", "bm25", "length", "random", SHUFFLED}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedWorld:
    return EvaluatedWorld.made(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """Training processes would load torch first."""
    with patch.object(os, "cpu_count", lambda: 1):
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def scorecard(world: EvaluatedWorld, work: Path) -> Scorecard:
    return world.evaluate(work, config=LEAST)


def scores_of(
    world: EvaluatedWorld, work: Path, checkpoint: CheckpointFn = factories.ignore, config: EvaluationConfig = LEAST
) -> CanaryScores:
    asked = [one.query for one in world.queries]
    scorer = Scorer(world.model, world.dataset, world.index_dir, asked, work, checkpoint, "cpu")
    return canary_scores(scorer, study_of(world.model, world.dataset, world.queries, "cpu"), config)


def equal(one: CanaryScores, other: CanaryScores) -> bool:
    same = [np.array_equal(one.gain_Q, other.gain_Q), np.array_equal(one.relevant_QN, other.relevant_QN)]
    same += [np.array_equal(scores_QN, other.scores[name]) for name, scores_QN in one.scores.items()]
    return all(same) and one.scores.keys() == other.scores.keys() and one.trouble == other.trouble


# --- what is planted ---


def of_shape(shape: str, number: int, one: str, other: str) -> Example:
    tags = {"canary": "0"}  # a dataset may use that name too
    if shape == "messages":
        return Example(f"r{number}", messages=(Message("user", one), Message("assistant", other)), tags=tags)
    if shape == "text":
        return Example(f"canary-{number}", text=one + other, tags=tags)
    return Example(f"r{number}", prompt=one, completion=other, tags=tags)


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(["prompt", "messages", "text"]),
    texts=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6),
    count=st.integers(1, 20),
    seed=st.integers(0, 2**63 - 1),
)
def test_planted_rows_and_queries(shape: str, texts: list[tuple[str, str]], count: int, seed: int) -> None:
    rows = [of_shape(shape, number, one, other) for number, (one, other) in enumerate(texts)]
    found = plant(rows, count, seed)
    assert found == plant(rows, count, seed) and found != plant(rows, count, seed + 1)
    assert len(found.rows) == 2 * count and len(found.queries) == count
    ids = [row.id for row in (*rows, *found.rows)]
    assert len(set(ids)) == len(ids)
    assert all((row.messages is not None, row.text is not None) == (shape == "messages", shape == "text")
               for row in found.rows)  # fmt: skip
    _check_words(rows, found, shape)


def _check_words(rows: list[Example], found: planted.Canaries, shape: str) -> None:
    text = "\n".join(map(example_text, rows)).casefold()
    subjects: list[str] = []
    for n, query in enumerate(found.queries):
        one, other = found.rows[2 * n : 2 * n + 2]
        assert one.tags == other.tags == {"canary": str(n)}
        question = query.messages[-1].content if query.messages else str(query.prompt)
        answer = str(query.completion)
        wordings = {question.strip(), *(example_text(row).replace(answer, "").strip() for row in (one, other))}
        assert len(wordings) == 3
        assert example_text(one).endswith(answer) and example_text(other).endswith(answer)
        (subject,) = set.intersection(*({w.strip("?") for w in q.split() if w.strip("?").istitle()} for q in wordings))
        for word in (subject, answer.strip()):
            assert word.casefold() not in text and word.isascii() and word.isalpha()
        assert not any(question.strip() in example_text(row) for row in (*rows, *found.rows))
        subjects += [subject, answer.strip()]
    assert len(set(subjects)) == len(subjects)


def test_words_that_rows_have_are_passed_over() -> None:
    first = plant([Example("a", prompt="Why", completion=" so")], 4, seed=5)
    taken = " ".join(example_text(row) for row in first.rows).upper()
    second = plant([Example("a", prompt=taken, completion=" so")], 4, seed=5)
    words = {w.strip("?") for row in second.rows for w in example_text(row).split() if w[1:].strip("?").islower()}
    invented = {word for word in words if word.istitle()} - {"Where", "What"}
    assert len(invented) == 8 and not any(word.upper() in taken for word in invented)


def test_the_border_of_prompt_and_completion_and_the_opening_are_the_rows_own() -> None:
    def first(row: Example) -> Example:
        return plant([row], 1, seed=0).rows[0]

    assert str(first(Example("a", prompt="Q:\n", completion="so")).prompt).endswith("?\n")
    assert str(first(Example("a", prompt="Q:\n", completion="so")).completion).isalpha()
    assert str(first(Example("a", prompt="Q:", completion="\tso")).completion).startswith("\t")
    assert str(first(Example("a", prompt="Q:", completion="so")).completion).startswith(" ")
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"))
    made = plant([Example("a", messages=turns)], 1, seed=0)
    assert made.rows[0].messages is not None and made.rows[0].messages[0] == turns[0]
    assert made.queries[0].messages is not None and [m.role for m in made.queries[0].messages] == ["system", "user"]


@pytest.mark.parametrize("shape", ["prompt", "messages", "text"])
def test_a_query_measures_the_tokens_that_its_rows_teach(world: EvaluatedWorld, shape: str) -> None:
    encoder = load_model(world.model).encoder()
    made = plant([of_shape(shape, 0, "the cat", " sat")], 2, seed=1)
    for n, query in enumerate(made.queries):
        asked = encoder.encode_query(prompt=query.prompt, messages=query.messages, completion=query.completion)
        answer = [token for token, target in zip(asked.ids, asked.targets, strict=True) if target]
        for row in made.rows[2 * n : 2 * n + 2]:
            taught = encoder.encode(row)
            learned = [token for token, target in zip(taught.ids, taught.targets, strict=True) if target]
            assert learned[-len(answer) :] == answer


# --- metrics ---


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(2, 6), st.integers(2, 4))
def test_ties_count_as_the_mean_over_their_orders(seed: int, rows: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    scores_N, relevant_N = rng.integers(0, levels, rows).astype(np.float32), rng.random(rows) < 0.4
    assume(relevant_N.any() and not relevant_N.all() and len(set(scores_N)) > 1)
    orders = [sorted(order, key=lambda n: -scores_N[n]) for order in permutations(range(rows))]
    ranks = [1 + next(place for place, n in enumerate(order) if relevant_N[n]) for order in orders]
    assert reciprocal_rank(scores_N, relevant_N) == pytest.approx(np.mean([1 / rank for rank in ranks]))
    assert recall_at(scores_N, relevant_N, 10) == pytest.approx(1.0)  # all rows are among ten


def test_scores_given_to_other_rows_do_not_find_the_canaries() -> None:
    rng = np.random.default_rng(0)
    relevant_QN = plant([Example("a", text="so")], 8, seed=0).relevant_QN(84)
    scores_QN = relevant_QN + 0.5 * rng.random(relevant_QN.shape)
    shuffled_QN = scores_QN[:, rng.permutation(100)]
    found = CanaryScores(relevant_QN, {"good": scores_QN, "bad": shuffled_QN, "none": np.ones_like(scores_QN)})
    assert found.metrics("good") == {"canary recall@10": 1.0, "canary MRR": 1.0}
    assert all(value is not None and value < 0.4 for value in found.metrics("bad").values())
    assert found.metrics("none") == dict.fromkeys(METRICS) and found.metrics("absent") == {}


def test_finding_what_was_not_learned_says_nothing() -> None:
    relevant_QN = np.array([[True, False]])
    assert CanaryScores(relevant_QN, {}, np.array([0.5, 1.75])).warning is None
    assert "did not learn" in str(CanaryScores(relevant_QN, {}, np.array([0.5, 1.25])).warning)
    assert "it diverged" in str(CanaryScores(relevant_QN, trouble="it diverged").warning)


# --- the run that learns them ---


def canary_metrics(scorecard: Scorecard) -> dict[str, set[str]]:
    found = {method.name: {name for name in method.detection if "canary" in name} for method in scorecard.methods}
    return {name: metrics for name, metrics in found.items() if metrics}


def test_a_scorecard_has_them_where_nothing_else_tells(scorecard: Scorecard, work: Path) -> None:
    found = scorecard
    assert canary_metrics(found) == dict.fromkeys(FOUND_BY, METRICS)
    bm25, shuffled = found.of("bm25"), found.of(SHUFFLED)
    assert bm25 is not None and shuffled is not None
    assert bm25.detection["canary MRR"] == bm25.detection["canary recall@10"] == 1.0  # nobody else has that name
    assert (shuffled.detection["canary MRR"] or 0) < 1.0
    assert from_json(to_json(found)) == found
    with np.load(work / EVIDENCE_FILE, allow_pickle=False) as kept:
        assert kept["canary_scores/graddot"].shape == kept["canary_relevant_QN"].shape == (COUNT, ROWS + 2 * COUNT)
        learned = kept["canary_gain_Q"].mean() >= 1
    assert any("did not learn the canaries" in warning for warning in found.warnings) != learned


def test_a_scorecard_has_none_where_tags_tell_or_none_are_wanted(
    world: EvaluatedWorld, scorecard: Scorecard, work: Path
) -> None:
    known = replace(world, queries=(replace(world.queries[0], relevant={"parity": "0"}), *world.queries[1:]))
    phases: set[str] = set()
    for config, asking in ((LEAST, known), (replace(LEAST, canaries=0), world)):
        other = asking.evaluate(work, lambda progress: phases.add(progress.phase), config=config)
        assert canary_metrics(other) == {}
        bare = [replace(method, detection={}) for method in scorecard.methods]
        assert [replace(method, detection={}) for method in other.methods] == bare  # nothing else follows from them
    assert phases and "canaries" not in phases


def test_cancelled_anywhere_it_goes_on_and_ends_the_same(world: EvaluatedWorld, tmp_path: Path) -> None:
    heard: list[str] = []
    straight = scores_of(world, tmp_path / "straight", lambda progress: heard.append(progress.phase))
    steps = heard.count("canaries")
    calls, stops = 0, {steps // EPOCHS + 1, steps + 2, steps + 5, steps + 9, steps + 12}

    def checkpoint(_progress: Progress) -> None:
        nonlocal calls
        calls += 1
        if calls in stops:
            raise Cancelled("somebody thought better of it")

    for _ in stops:
        with pytest.raises(Cancelled):
            scores_of(world, tmp_path / "work", checkpoint)
    assert equal(scores_of(world, tmp_path / "work", checkpoint), straight)
    files = sorted(file.name for file in tmp_path.rglob("scores/*.npz"))
    assert len(files) == 2 and files[0] == files[1]


def test_after_a_cancelled_epoch_the_finished_ones_are_not_trained_again(world: EvaluatedWorld, tmp_path: Path) -> None:
    def stopping(after: int, heard: list[int]) -> Callable[[Progress], None]:
        def checkpoint(progress: Progress) -> None:
            if progress.unit == "steps":
                heard.append(progress.done)
                if len(heard) == after:
                    raise Cancelled("enough")

        return checkpoint

    first: list[int] = []
    again: list[int] = []
    per_epoch = -(-(ROWS + 2 * COUNT) // 8)
    with pytest.raises(Cancelled):
        scores_of(world, tmp_path, stopping(per_epoch + 1, first))
    with pytest.raises(Cancelled):
        scores_of(world, tmp_path, stopping(1, again))
    assert again == [per_epoch + 1]


def test_a_second_time_nothing_is_trained_and_only_scores_are_left(
    world: EvaluatedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = scores_of(world, tmp_path)
    left = tmp_path / "canaries" / next((tmp_path / "canaries").parent.glob("scores/*.npz")).stem
    assert not left.exists()
    left.mkdir()  # as if the process had died before it could clean up
    monkeypatch.setattr(planted, "train_lora", lambda *_given, **_named: pytest.fail("trained"))
    assert equal(scores_of(world, tmp_path), first) and not left.exists()
    with pytest.raises(pytest.fail.Exception, match="trained"):
        scores_of(world, tmp_path, config=replace(LEAST, seed=1))


def test_a_run_that_diverges_is_told_and_not_tried_again(
    world: EvaluatedWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(*_given: object, **_named: object) -> None:
        raise NonFiniteGradient("The weights are NaN.")

    monkeypatch.setattr(planted, "train_lora", diverges)
    first = scores_of(world, tmp_path)
    assert "The weights are NaN." in str(first.warning) and first.metrics("graddot") == {}
    monkeypatch.setattr(planted, "train_lora", lambda *_given, **_named: pytest.fail("trained"))
    assert equal(scores_of(world, tmp_path), first)


@pytest.mark.parametrize("kept", [1, 2])
def test_an_index_of_a_few_epochs_is_repeated_with_as_many(world: EvaluatedWorld, tmp_path: Path, kept: int) -> None:
    model = replace(world.model, checkpoints=world.model.checkpoints[-kept:])
    build_index(load_model(model), world.dataset, IndexConfig("graddot"), tmp_path / "index", factories.ignore)
    found = scores_of(replace(world, model=model, index_dir=tmp_path / "index"), tmp_path / "work")
    assert found.trouble == "" and set(found.scores) == FOUND_BY


@given(last=st.integers(1, 200), count=st.integers(1, 200))
def test_epochs_are_spread_over_the_run(last: int, count: int) -> None:
    epochs = planted.chosen_epochs(last, count)
    assert len(epochs) == min(count, last) and epochs[-1] == last and epochs[0] >= 1
    gaps = np.diff([0, *epochs])
    assert gaps.max() - gaps.min() <= 1


def test_rows_cut_before_a_canary_s_answer_plant_none(world: EvaluatedWorld, tmp_path: Path) -> None:
    options = IndexOptions(max_length=36)
    config = IndexConfig("graddot", options=options)
    build_index(load_model(world.model), world.dataset, config, tmp_path / "index", factories.ignore)
    found = scores_of(replace(world, index_dir=tmp_path / "index"), tmp_path / "work")
    assert "36 tokens" in str(found.warning) and found.scores == {}


def test_fewer_than_none_is_an_invalid_option(world: EvaluatedWorld) -> None:
    with pytest.raises(InvalidOption) as caught:
        check_config(replace(LEAST, canaries=-1), ROWS, world.queries)
    assert caught.value.pointer == "/canaries"


def test_the_whole_evaluation_ends_the_same_after_a_cancelled_canary_run(
    world: EvaluatedWorld, scorecard: Scorecard, tmp_path: Path
) -> None:
    def stop_in(phase: str) -> Callable[[Progress], None]:
        def checkpoint(progress: Progress) -> None:
            if progress.phase == phase:
                raise Cancelled("enough")

        return checkpoint

    with pytest.raises(Cancelled):
        world.evaluate(tmp_path, stop_in("canaries"), LEAST)
    assert timeless(world.evaluate(tmp_path, config=LEAST)) == timeless(scorecard)
