"""Many retrainings: same results whoever trains them, kept on disk, gone on with after a kill."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.causal.outcomes import OutcomeStore
from engine.causal.retrain import Study, Variant, estimate, retrain, stacks_of
from engine.causal.retrainer import Retrainer
from engine.causal.steps import make_steps
from engine.causal.train import train_lora
from engine.config import Lora, ModelConfig, Training
from engine.errors import Cancelled, InvalidOption, InvalidQuery
from engine.model import load_model
from engine.question import prepare
from engine.types import Example, Generate, Progress, Query
from tests import factories

ROWS = tuple(Example(row["id"], row["prompt"], row["completion"]) for row in factories.sentences(12, longest=4))
TRAINING = Training(epochs=3, batch_size=3, learning_rate=0.02, lora=Lora(2, 4))
QUERIES = (Query(prompt="a b", completion=" c d"), Query(prompt="b", completion=" a", contrast=" d"))
VARIANTS = [Variant.without(f"v{n}", n % 2, range(n)) for n in range(6)]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    base = factories.save_base(tmp_path_factory.mktemp("retrain") / "base", factories.llama())
    return Study(base, ROWS, TRAINING, QUERIES, dtype="float64")


def test_processes_and_stacks_do_not_change_the_outcomes(study: Study, tmp_path: Path) -> None:
    reports: list[Progress] = []
    alone_VQ = retrain(study, VARIANTS, tmp_path / "alone", processes=1, width=1)
    stacked_VQ = retrain(study, VARIANTS, tmp_path / "stacked", reports.append, processes=2, width=2)
    assert alone_VQ.shape == (6, 2)
    np.testing.assert_allclose(stacked_VQ, alone_VQ, rtol=0, atol=1e-7)
    assert (reports[-1].done, reports[-1].total) == (6 * 12, 6 * 12)
    assert len({tuple(row) for row in alone_VQ}) == 6


def test_an_undisturbed_variant_is_the_fine_tune_itself(study: Study, tmp_path: Path) -> None:
    tuned = train_lora(study.base, ROWS, tmp_path / "run", replace(TRAINING, seed=1), dtype="float64")
    outcome_VQ = retrain(study, [Variant("full", 1)], tmp_path / "out")
    config = ModelConfig(str(study.base), adapter=str(tuned.checkpoints[-1]), dtype="float64")
    trainer = Retrainer(study)
    trainer.stack.resize(1)
    model = load_model(config)
    weights = {name.replace(".default", ""): p for name, p in model.module.named_parameters()}
    trainer.stack.theta_KP.data[0] = trainer.stack.flat(weights)
    np.testing.assert_allclose(trainer.measure(), outcome_VQ, rtol=0, atol=1e-9)
    contrast = prepare(model, None, QUERIES[1])
    assert contrast.weights == (1.0, -1.0)


def test_what_is_done_is_not_done_again_and_a_damaged_file_is(study: Study, tmp_path: Path) -> None:
    first_VQ = retrain(study, VARIANTS, tmp_path, processes=1, width=2)
    reports: list[Progress] = []
    assert np.array_equal(retrain(study, VARIANTS, tmp_path, reports.append), first_VQ)
    assert reports == []
    store = OutcomeStore(tmp_path, Retrainer(study).fingerprint)
    file = store._file(VARIANTS[4])
    record = json.loads(file.read_text())
    record["outcome"][0] += 1.0
    file.write_text(json.dumps(record))
    store._file(VARIANTS[1]).unlink()
    assert store.read(VARIANTS[4]) is None
    assert np.array_equal(retrain(study, VARIANTS, tmp_path, reports.append, processes=1), first_VQ)
    steps = 12
    assert 2 * steps < reports[0].done < 6 * steps  # one stack of two, of three, was there
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert (reports[-1].done, reports[-1].total) == (6 * steps, 6 * steps)


def test_a_cancelled_study_goes_on_where_it_was(study: Study, tmp_path: Path) -> None:
    def stop(progress: Progress) -> None:
        if progress.done > 30:
            raise Cancelled("enough")

    for name, processes in (("one", 1), ("two", 2)):
        with pytest.raises(Cancelled):
            retrain(study, VARIANTS, tmp_path / name, stop, processes=processes, width=1)
        straight_VQ = retrain(study, VARIANTS, tmp_path / "straight", processes=processes, width=1)
        assert np.array_equal(retrain(study, VARIANTS, tmp_path / name, processes=processes), straight_VQ)


@pytest.mark.long
@pytest.mark.slow
def test_a_killed_study_goes_on_and_leaves_no_process(study: Study, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.engine.test_retrain import *\n"
        "if __name__ == '__main__':\n"
        "    study = Study(Path(sys.argv[1]), ROWS, replace(TRAINING, epochs=40), QUERIES, dtype='float64')\n"
        "    print('start', flush=True); retrain(study, VARIANTS, Path(sys.argv[2]), processes=2, width=1)\n"
    )
    file = tmp_path / "killed_study.py"
    file.write_text(script)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(file), str(study.base), str(tmp_path / "out")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("runs/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    while _group_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _group_alive(process.pid)
    done = len(list((tmp_path / "out").glob("runs/*.json")))
    assert 0 < done < len(VARIANTS)
    long = replace(study, training=replace(TRAINING, epochs=40))
    resumed_VQ = retrain(long, VARIANTS, tmp_path / "out", processes=2)
    assert np.array_equal(resumed_VQ, retrain(long, VARIANTS, tmp_path / "straight", processes=2, width=1))


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_cost_is_told_before_and_nothing_is_left_to_pay_after(study: Study, tmp_path: Path) -> None:
    before = estimate(study, VARIANTS, tmp_path, processes=1)
    assert (before.retrainings, before.processes) == (6, 1)
    started = time.perf_counter()
    retrain(study, VARIANTS, tmp_path, processes=1)
    assert 0.05 < before.seconds / (time.perf_counter() - started) < 20
    assert estimate(study, VARIANTS, tmp_path).seconds == estimate(study, VARIANTS, tmp_path).retrainings == 0


def test_the_audited_runs_own_order_is_kept_and_other_seeds_have_theirs(study: Study, tmp_path: Path) -> None:
    own = make_steps(12, TRAINING)
    recorded = (*own[2:], *own[:2])
    variants = [Variant("audited", 0), Variant("other", 1)]
    ordinary_VQ = retrain(study, variants, tmp_path / "ordinary", processes=1, width=1)
    same_VQ = retrain(replace(study, steps=own), variants, tmp_path / "same", processes=1, width=1)
    turned_VQ = retrain(replace(study, steps=recorded), variants, tmp_path / "turned", processes=1, width=1)
    assert np.array_equal(same_VQ, ordinary_VQ)
    assert np.array_equal(turned_VQ[1], ordinary_VQ[1])
    assert np.abs(turned_VQ[0] - ordinary_VQ[0]).max() > 1e-4
    for wrong, cause in ((own[1:], "11 steps"), (((12,), *own[1:]), "row 12")):
        with pytest.raises(InvalidOption, match=cause):
            retrain(replace(study, steps=wrong), variants, tmp_path / "wrong")


def test_a_directory_serves_one_study_only(study: Study, tmp_path: Path) -> None:
    retrain(study, VARIANTS[:1], tmp_path)
    with pytest.raises(InvalidOption, match="another base"):
        retrain(replace(study, training=replace(TRAINING, epochs=4)), VARIANTS[:1], tmp_path)


def test_bad_variants_and_queries_are_named(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="'v0'"):
        retrain(study, [VARIANTS[0], VARIANTS[0]], tmp_path)
    with pytest.raises(InvalidOption, match="row 12"):
        retrain(study, [Variant.without("x", 0, [12])], tmp_path)
    with pytest.raises(InvalidOption, match="no variant"):
        retrain(study, [], tmp_path)
    with pytest.raises(InvalidOption, match="row 1 by nan"):
        retrain(study, [Variant("x", 0, ((1, math.nan),))], tmp_path)
    with pytest.raises(InvalidOption, match="a row twice"):
        retrain(study, [Variant("x", 0, ((1, 0.0), (1, 1.0)))], tmp_path)
    asked = (Query(prompt="a", generate=Generate()),)
    with pytest.raises(InvalidQuery, match="spelled out"):
        retrain(replace(study, queries=asked), VARIANTS, tmp_path)


def test_variants_of_numpys_numbers_are_those_of_pythons(study: Study, tmp_path: Path) -> None:
    ours = Variant.without("x", 1, [2, 5])
    numpys = Variant.without("x", np.int64(1), np.array([5, 2, 5]))  # type: ignore[arg-type]
    assert numpys == ours == Variant("x", 1, ((2, 0), (5, 0)))
    store = OutcomeStore(tmp_path, "study")
    store.write(numpys, np.array([1.5]))
    assert store.read(ours) == [1.5]


def test_a_diverged_variant_leaves_its_neighbours_alone(study: Study, tmp_path: Path) -> None:
    alone_VQ = retrain(study, VARIANTS[1:2], tmp_path, width=1)
    trainer = Retrainer(study)
    loop = trainer.loop_of(VARIANTS[:2])
    trainer.stack.theta_KP.data[0] = math.nan
    for number in range(loop.total):
        loop.step(number)
    outcome_KQ = trainer.measure()
    assert np.isnan(outcome_KQ[0]).all()
    np.testing.assert_allclose(outcome_KQ[1:], alone_VQ, rtol=0, atol=1e-7)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_plan_is_named_and_what_is_finished_stays(study: Study, tmp_path: Path, content: str) -> None:
    first_VQ = retrain(study, VARIANTS[:1], tmp_path)
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InvalidOption, match=r"plan\.json is damaged"):
        retrain(study, VARIANTS[:2], tmp_path)
    (tmp_path / "plan.json").unlink()
    assert np.array_equal(retrain(study, VARIANTS[:1], tmp_path), first_VQ)


def test_one_process_at_a_time_writes_into_a_directory(study: Study, tmp_path: Path) -> None:
    def second(progress: Progress) -> None:
        for call in (retrain, estimate):
            with pytest.raises(InvalidOption, match="Another process"):
                call(study, VARIANTS[1:2], tmp_path)
        raise Cancelled(f"after {progress.done}")

    with pytest.raises(Cancelled, match="after 1"):
        retrain(study, VARIANTS[:1], tmp_path, second)
    assert retrain(study, VARIANTS[:1], tmp_path).shape == (1, 2)


def test_a_device_that_is_not_there_is_named(study: Study, tmp_path: Path) -> None:
    for device in ("no-such-device", "cuda:4095"):
        with pytest.raises(InvalidOption, match=device):
            retrain(replace(study, device=device), VARIANTS, tmp_path)


@pytest.mark.long
@pytest.mark.slow
def test_ctrl_c_leaves_the_workers_silent(study: Study, tmp_path: Path) -> None:
    """A terminal's Ctrl-C reaches the whole group; here while the workers still import."""
    script = (
        "import signal, sys; from pathlib import Path; from tests.engine.test_retrain import *\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    study = Study(Path(sys.argv[1]), ROWS, replace(TRAINING, epochs=4000), QUERIES, dtype='float64')\n"
        "    try:\n"
        "        retrain(study, VARIANTS, Path(sys.argv[2]), processes=2, width=1)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted', flush=True)\n"
    )
    file, root = tmp_path / "interrupted_study.py", Path(__file__).parents[2]
    file.write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(file), str(study.base), str(tmp_path / "out")],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "plan.json").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=120) == ("interrupted\n", "")


def test_stacks_hold_variants_of_like_size_and_keep_every_process_busy() -> None:
    stacks = stacks_of(VARIANTS, 16, 2)
    assert [[variant.removed for variant in stack] for stack in stacks] == [[0, 1, 2], [3, 4, 5]]
    assert [len(stack) for stack in stacks_of(VARIANTS, 4, 1)] == [3, 3]  # as wide as one another


def test_the_width_is_the_fastest_measured(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Retrainer(study)
    seconds = {1: 1.0, 2: 0.8, 4: 0.79, 8: 0.5}
    monkeypatch.setattr(trainer, "step_seconds", lambda variants: seconds[len(variants)])
    many = [Variant(f"v{n}", n) for n in range(16)]
    assert trainer.fastest_width(many, 1 << 10) == (1, 1.0)
    assert trainer.fastest_width(many, 4) == (2, 0.8)
    assert trainer.fastest_width(many, 2) == (8, 0.5)


def test_a_longer_list_trains_only_what_is_new(study: Study, tmp_path: Path) -> None:
    first_VQ = retrain(study, VARIANTS[:4], tmp_path, processes=1, width=4)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").iterdir()}
    assert estimate(study, VARIANTS, tmp_path, processes=1).retrainings == 2
    longer_VQ = retrain(study, VARIANTS, tmp_path, processes=1)
    assert np.array_equal(longer_VQ[:4], first_VQ)
    assert all(file.stat().st_mtime_ns == at for file, at in made.items())
    assert len(list((tmp_path / "runs").iterdir())) == len(VARIANTS)


def test_of_a_list_that_grew_begun_stacks_are_finished_as_they_were(study: Study, tmp_path: Path) -> None:
    retrain(study, VARIANTS[:2], tmp_path / "one", processes=1, width=2)
    straight_VQ = retrain(study, VARIANTS, tmp_path / "one", processes=1)
    retrain(study, VARIANTS[:2], tmp_path / "two", processes=1, width=2)

    def stop(progress: Progress) -> None:
        if progress.done > 40:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        retrain(study, VARIANTS, tmp_path / "two", stop, processes=1)
    assert np.array_equal(retrain(study, VARIANTS, tmp_path / "two", processes=2), straight_VQ)
