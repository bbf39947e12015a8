"""What the peers are given and what is made of their answers. No peer has to be installed.

Shapes: Q queries, N rows, B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.quality.peers import functional, install, results, run, written
from benchmarks.quality.peers.batch import collate, drawn_labels, logits_of, token_losses
from benchmarks.quality.peers.given import Given, Tokens, load_tuned, lora_modules
from benchmarks.quality.peers.results import PeerScores
from benchmarks.quality.peers.task import write_task
from benchmarks.quality.peers.written import Arguments, Result
from engine.config import ModelConfig, Recipe, Training
from engine.model import LoadedModel, load_model
from engine.rows import encode_rows
from engine.types import Query
from tests import factories, oracles

QUERIES = (Query(prompt="the cat", completion=" sat"), Query(prompt="a dog", completion=" ran home"))
RESULT = Result("peer", "1.0", "dot", "epoch-1", {"damping": 0.1}, 1.0, 2.0, 3.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Given, LoadedModel, Any]:
    """(task, Whence's own model, its data): two checkpoints; rows weigh 1 / their targets."""
    root = tmp_path_factory.mktemp("peers")
    base = factories.llama()
    factories.save_base(root / "base", base)
    adapters = tuple(str(factories.save_adapter(root / f"epoch-{seed}", base, seed, r=2)) for seed in (1, 2))
    data = factories.dataset(root / "rows", factories.sentences(9))
    recipe = Recipe(reduction="example_mean")
    config = ModelConfig(str(root / "base"), checkpoints=adapters, recipe=recipe)
    return Given(write_task(config, data, QUERIES, root / "task")), load_model(config), data


def test_peers_read_the_tokens_targets_and_weights_that_whence_reads(world: tuple[Given, LoadedModel, Any]) -> None:
    task, model, data = world
    rows = encode_rows(model, data, None, lambda _done: None)
    assert [tuple(row.ids) for row in task.rows] == [tuple(row.ids) for row in rows.rows]
    assert [tuple(row.targets) for row in task.rows] == [tuple(row.targets) for row in rows.rows]
    found = np.array([row.weight for row in task.rows])
    np.testing.assert_allclose(found, np.array(rows.weights) / np.mean(rows.weights))
    assert len(set(found)) > 1
    encoder = model.encoder()
    wanted = [encoder.encode_query(prompt=query.prompt, completion=query.completion) for query in QUERIES]
    assert [(query.ids, query.targets) for query in task.queries] == [(one.ids, one.targets) for one in wanted]


def test_the_task_lists_checkpoints_in_order_and_a_contrast_cannot_be_given(
    world: tuple[Given, LoadedModel, Any], tmp_path: Path
) -> None:
    task, model, data = world
    assert task.checkpoints == ["epoch-1", "epoch-2"]
    with pytest.raises(ValueError, match="contrast"):
        write_task(model.config, data, [replace(QUERIES[0], contrast=" ran")], tmp_path / "task")


@pytest.mark.parametrize("checkpoint", [0, 1])
def test_a_peers_model_gives_whences_f_at_every_checkpoint(
    world: tuple[Given, LoadedModel, Any], checkpoint: int
) -> None:
    task, model, _ = world
    tuned = load_tuned(task, task.checkpoints[checkpoint])
    batch = collate(task.queries, task.pad_id)
    with torch.no_grad():
        found_Q = -token_losses(logits_of(tuned, batch), batch["labels"]).sum(1)
    model.use(checkpoint)
    encoder = model.encoder()
    for value, query in zip(found_Q, QUERIES, strict=True):
        encoded = encoder.encode_query(prompt=query.prompt, completion=query.completion)
        assert float(value) == pytest.approx(float(oracles.log_prob(model, encoded)), abs=1e-4)


def test_only_lora_weights_train_and_each_belongs_to_a_listed_module(world: tuple[Given, LoadedModel, Any]) -> None:
    tuned = load_tuned(world[0], "epoch-1")
    trained = {name.removesuffix(".weight") for name, weight in tuned.named_parameters() if weight.requires_grad}
    assert trained == set(lora_modules(tuned))
    assert len(trained) == 2 * 7 * 2  # A and B of seven layers in two blocks


def test_a_recipe_with_steps_tells_the_epochs_that_end_at_the_checkpoints(
    world: tuple[Given, LoadedModel, Any], tmp_path: Path
) -> None:
    assert world[0].epochs == []
    training = Training(learning_rate=1.0, epochs=2, batch_size=3, warmup_share=0.0, epsilon=0.5)
    steps = tuple(tuple(range(start, start + 3)) for start in (0, 3, 6)) * 2
    config = replace(world[1].config, recipe=Recipe(steps=steps, training=training))
    task = Given(write_task(config, world[2], QUERIES, tmp_path / "task"))
    rates = [1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [epoch["steps"] for epoch in task.epochs] == [3, 3]
    found = [epoch["learning_rate"] for epoch in task.epochs]
    np.testing.assert_allclose(found, [np.mean(rates[:3]), np.mean(rates[3:])])
    assert task.adam == {"betas": [0.9, 0.999], "eps": 0.5}


sequences = st.lists(
    st.integers(2, 7).flatmap(
        lambda length: st.builds(
            lambda ids, targets: Tokens(tuple(ids), (False, *targets)),
            st.lists(st.integers(1, 9), min_size=length, max_size=length),
            st.lists(st.booleans(), min_size=length - 1, max_size=length - 1).filter(any),
        )
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=30, deadline=None)
@given(sequences, st.integers(0, 3), st.integers(0, 2**31))
def test_losses_odds_and_probabilities_are_those_of_a_loop(drawn: list[Tokens], more: int, seed: int) -> None:
    width = max(len(tokens.ids) for tokens in drawn) + more
    batch = collate(drawn, 0, width)
    logits_BTV = torch.randn(len(drawn), width, 10, generator=torch.Generator().manual_seed(seed))
    losses_BT = token_losses(logits_BTV, batch["labels"])
    odds_B = functional.log_odds(losses_BT, batch["labels"])
    mean_B = functional.mean_probability(losses_BT, batch["labels"])
    for b, tokens in enumerate(drawn):
        places = [t for t in range(len(tokens.ids)) if tokens.targets[t]]
        chances = [float(logits_BTV[b, t - 1].softmax(-1)[tokens.ids[t]]) for t in places]
        assert float(losses_BT[b].sum()) == pytest.approx(-sum(map(math.log, chances)), rel=1e-4)
        assert float(odds_B[b]) == pytest.approx(sum(math.log(p / (1 - p)) for p in chances), rel=1e-3, abs=1e-3)
        assert float(mean_B[b]) == pytest.approx(sum(chances) / len(chances), rel=1e-4)


def test_log_odds_have_gradients_where_nothing_is_counted() -> None:
    logits_BTV = torch.randn(1, 4, 10, requires_grad=True)
    labels_BT = torch.tensor([[-100, -100, 3, -100]])
    functional.log_odds(token_losses(logits_BTV, labels_BT), labels_BT).sum().backward()
    assert logits_BTV.grad is not None
    assert torch.isfinite(logits_BTV.grad).all()
    assert logits_BTV.grad[0, 1].abs().sum() > 0


def test_drawn_labels_stand_where_targets_stand_and_follow_the_model() -> None:
    labels_BT = torch.tensor([[-100, 1, -100, 2, -100]])
    logits_BTV = torch.full((1, 5, 10), -1e4)
    logits_BTV[:, :, 7] = 0.0
    assert drawn_labels(logits_BTV, labels_BT).tolist() == [[-100, 7, -100, 7, -100]]


def test_results_come_back_as_they_were_written_and_overflow_is_refused(tmp_path: Path) -> None:
    scores_QN = np.random.default_rng(0).normal(size=(2, 3))
    written.write(tmp_path, RESULT, scores_QN)
    (found,) = results.read(tmp_path)
    assert found.about == RESULT
    np.testing.assert_array_equal(found.scores_QN, scores_QN.astype(np.float32))
    with pytest.raises(ValueError, match="not finite"):
        written.write(tmp_path, RESULT, np.full((2, 3), np.inf))


def test_rows_are_weighted_unless_the_peer_normalises_them() -> None:
    scores = PeerScores(RESULT, np.ones((2, 3), np.float32))
    weights_N = np.array([1.0, 2.0, 0.0])
    np.testing.assert_array_equal(results.weighted(scores, weights_N).scores_QN, [[1, 2, 0], [1, 2, 0]])
    normalised = PeerScores(replace(RESULT, linear=False), scores.scores_QN)
    np.testing.assert_array_equal(results.weighted(normalised, weights_N).scores_QN, scores.scores_QN)


def test_checkpoints_add_up_and_what_lacks_one_has_no_sum() -> None:
    first = PeerScores(RESULT, np.array([[1.0, 1.0], [0.0, 0.0]], np.float32))
    second = PeerScores(replace(RESULT, checkpoint="epoch-2"), np.array([[30.0, 40.0], [1.0, -1.0]], np.float32))
    lone = PeerScores(replace(RESULT, options={"damping": 1.0}), first.scores_QN)
    (plain,) = results.summed([first, lone, second], ["epoch-1", "epoch-2"])
    np.testing.assert_array_equal(plain.scores_QN, [[31, 41], [1, -1]])
    assert (plain.about.fit_seconds, plain.about.score_seconds, plain.about.bytes_per_example) == (2.0, 4.0, 6.0)
    (scaled,) = results.summed([first, second], ["epoch-1", "epoch-2"], scaled=True)
    size = math.sqrt((30**2 + 40**2) / 2)
    np.testing.assert_allclose(scaled.scores_QN, [[1 + 30 / size, 1 + 40 / size], [1, -1]], rtol=1e-6)


def test_a_method_that_fails_leaves_its_reason_and_the_next_one_runs(tmp_path: Path) -> None:
    ran = []

    def method(name: str) -> None:
        ran.append(name)
        if name == "bad":
            raise ArithmeticError("no inverse")

    asked = Arguments(tmp_path, tmp_path / "out", "epoch-1", ("bad", "good"))
    written.each(asked, method)
    assert (tmp_path / "out" / "bad epoch-1.failed").read_text() == "ArithmeticError: no inverse"
    written.each(asked, method)
    assert ran == ["bad", "good", "bad"]


def test_a_peer_that_cannot_be_installed_is_told_and_the_others_run(
    world: tuple[Given, LoadedModel, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the project's own environment every script fails at its first import of the peer."""

    def ensure(name: str, root: Path) -> Path:
        if name == "bergson":
            raise install.CannotInstall("no such wheel")
        return Path(sys.executable)

    monkeypatch.setattr(install, "ensure", ensure)
    monkeypatch.setattr(run, "_limit_memory", lambda: None)
    outcome = run.run_peers(world[0].path, tmp_path, ("bergson", "kronfluence"), "final")
    reasons = {(found.peer, found.method, found.checkpoint): found.reason for found in outcome.not_run}
    assert reasons["bergson", "", ""] == "no such wheel"
    assert reasons["kronfluence", "ekfac", "epoch-2"] == "The script ended with status 1."
    assert len(reasons) == 5
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["results"] == []
    assert len(summary["not_run"]) == 5


def test_another_task_or_another_requirement_gets_another_folder(
    world: tuple[Given, LoadedModel, Any], tmp_path: Path
) -> None:
    task, model, data = world
    again = Given(write_task(model.config, data, QUERIES, tmp_path / "again"))
    fewer = Given(write_task(model.config, data, QUERIES[:1], tmp_path / "fewer"))
    assert run._fingerprint(task, "traker") == run._fingerprint(again, "traker")
    assert run._fingerprint(task, "traker") != run._fingerprint(fewer, "traker")
    assert run._fingerprint(task, "traker") != run._fingerprint(task, "dattri")


@pytest.mark.parametrize("peer", sorted(run.PEERS))
def test_every_peer_has_a_script_and_only_pinned_requirements_with_one_torch(peer: str) -> None:
    assert (run.HERE / f"{peer}_scores.py").is_file()
    lines = (install.REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    assert any(line.startswith(f"{peer}==") for line in pins)
    assert [line for line in pins if line.startswith("torch==")] == ["torch==2.13.0"]
