"""An engine without tensors: small, deterministic, and obedient."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.causal.checks import CheckConfig, CheckCost, CheckResult, RankedRow
from engine.causal.recipe import FoundRecipe
from engine.causal.recorded import find_recipe
from engine.config import IndexConfig, ModelConfig, fingerprint
from engine.dataset import Dataset, RowFilter, example_text, open_dataset
from engine.durable import checksum_of, write_durably
from engine.errors import IndexUnavailable, NotAModel
from engine.evaluate.scorecard import (
    FIGURES_FILE,
    EvaluationConfig,
    EvaluationCost,
    EvaluationQuery,
    Scorecard,
    VerdictName,
)
from engine.integrity import sealed
from engine.methods.specs import method_specs
from engine.types import (
    AskOptions,
    Attribution,
    CheckpointFn,
    Coverage,
    Diagnostics,
    Generated,
    IndexEstimate,
    IndexInfo,
    Measurement,
    Member,
    MethodSpec,
    ModelInfo,
    Progress,
    Query,
    SelfInfluence,
)
from tests.app.fake_checks import checked
from tests.app.fake_ranking import groups_of, hits_of, kind_of, question_of, removal_of, scores_of, searched_in
from tests.app.fake_scorecards import figures_of, scorecard_of
from tests.app.fake_tokens import tokens_of

COVERAGE = Coverage(tracked_parameters=90, trained_parameters=100, share=0.9)
SERVES = ("ekfac", "bm25", "length", "random")
UNSIGNED = frozenset({"bm25", "length"})


@dataclass
class FakeEngine:
    """Implements EngineClient. A row's score is the number of words it shares with the query, minus the mean.

    Tell it what to do:
        errors["build_index"] = StorageFull("…")   that method raises (submit_attribution: the call itself;
                                                   "attribution", "generation": the future of either)
        gate.clear()                               builds, evaluations and attributions wait until gate.set();
                                                   a waiting build calls checkpoint, so it can be cancelled
        step_seconds = 0.01                        builds take that long a row, evaluations a subset, checks a seed
        verdict = "untrusted"                      what evaluations find of the index's own method
    `calls` records (method, arguments), `groups` on whose behalf attributions were submitted.
    """

    errors: dict[str, Exception] = field(default_factory=dict)
    step_seconds: float = 0.0
    verdict: VerdictName = "trusted"
    max_queue: int = 64
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    closed: bool = False

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="fake-lane")

    def methods(self) -> list[MethodSpec]:
        return method_specs()

    def describe_model(self, model: ModelConfig) -> ModelInfo:
        self._called("describe_model", model)
        if not (Path(model.base) / "config.json").is_file():
            raise NotAModel(f"'{model.base}' has no config.json.", pointer="/base")
        return ModelInfo(
            fingerprint=fingerprint(model),
            parameters=1000,
            trained_parameters=100,
            trained_modules=4,
            checkpoints=max(1, len(model.checkpoints)),
            context_length=128,
            coverage=COVERAGE,
            warnings=() if model.recipe else ("The recipe is unknown: token-sum gradients.",),
        )

    def find_recipe(self, model: ModelConfig, roots: Sequence[Path]) -> FoundRecipe | None:
        """As the engine does it, for it only reads files; not among `calls`."""
        return find_recipe(model, roots)

    def estimate_index(self, model: ModelConfig, dataset_dir: Path, config: IndexConfig) -> IndexEstimate:
        self._called("estimate_index", model, dataset_dir, config)
        rows = len(open_dataset(dataset_dir))
        return IndexEstimate(
            seconds=rows * 0.5,
            memory_bytes=rows * 1000,
            disk_bytes=rows * 100,
            rows=rows,
            dims=50,
            sketched=False,
            basis="counted rows",
        )

    def build_index(
        self, model: ModelConfig, dataset_dir: Path, config: IndexConfig, index_dir: Path, checkpoint: CheckpointFn
    ) -> IndexInfo:
        """Writes one small file a row: a second build of the same directory goes on at the first missing one."""
        self._called("build_index", model, dataset_dir, config, index_dir)
        rows = open_dataset(dataset_dir)
        shards = index_dir / "shards"
        shards.mkdir(parents=True, exist_ok=True)
        for position in range(len(rows)):
            checkpoint(Progress(position, len(rows), "rows", "sketch"))
            self._wait(lambda at=position: checkpoint(Progress(at, len(rows), "rows", "sketch")))
            shard = shards / f"{position:05d}.faiss"
            if not shard.exists():
                _write(shard, rows[position].id)
        checkpoint(Progress(len(rows), len(rows), "rows", "sketch"))
        info = _index_info(model, rows, config)
        _write(index_dir / "manifest.json", _manifest(index_dir, info))
        return info

    def check_index(self, index_dir: Path, *, sketched: bool) -> IndexInfo:
        """What its manifest says."""
        self._called("check_index", index_dir, sketched)
        values = json.loads((index_dir / "manifest.json").read_text())
        made = {name: values[name] for name in ("method", "rows", "dims", "fingerprints", "options", "revision")}
        return IndexInfo(**made, serves=SERVES, bytes=100, sketched=sketched, coverage=COVERAGE, checkpoints=1)

    def submit_attribution(
        self, model: ModelConfig, dataset_dir: Path, index_dir: Path, query: Query, ask: AskOptions, group: str = ""
    ) -> Future[Attribution]:
        self.groups.append(group)
        self._called("submit_attribution", model, dataset_dir, index_dir, query, ask)
        if not (index_dir / "manifest.json").is_file():
            raise IndexUnavailable("The index has no manifest.")
        revision = json.loads((index_dir / "manifest.json").read_text())["revision"]
        return self._pool.submit(self._attribute, open_dataset(dataset_dir), revision, query, ask)

    def submit_generation(self, model: ModelConfig, query: Query, group: str = "") -> Future[Generated]:
        self.groups.append(group)
        self._called("submit_generation", model, query)
        return self._pool.submit(self._generate, query)

    def self_influence(
        self,
        dataset_dir: Path,
        index_dir: Path,
        order: str,
        limit: int,
        start: int = 0,
        wanted: RowFilter | None = None,
    ) -> list[SelfInfluence]:
        self._called("self_influence", dataset_dir, index_dir, order, limit, start, wanted)
        rows = open_dataset(dataset_dir)
        allowed = rows.select(wanted.tags, wanted.query, label=wanted.label) if wanted else range(len(rows))
        return [row for row in _by_length(rows, order) if row.position in allowed][start : start + limit]

    def self_influence_of(self, dataset_dir: Path, index_dir: Path, positions: Sequence[int]) -> list[SelfInfluence]:
        self._called("self_influence_of", dataset_dir, index_dir, positions)
        ranked = {row.position: row for row in _by_length(open_dataset(dataset_dir), "desc")}
        return [ranked[position] for position in positions]

    def evaluate(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> Scorecard:
        """Writes one small file a subset, as a finished retraining; those that are there are not written again."""
        self._called("evaluate", model, dataset_dir, index_dir, queries, config, work_dir)
        total = config.half_subsets
        for done in range(total):
            checkpoint(Progress(done, total, "retrainings", "retrain"))
            self._wait(lambda at=done: checkpoint(Progress(at, total, "retrainings", "retrain")))
            run = _run_file(work_dir, done)
            if not run.exists():
                run.parent.mkdir(parents=True, exist_ok=True)
                _write(run, _run_record({"trained by": work_dir.name}))
        checkpoint(Progress(total, total, "retrainings", "retrain"))
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / FIGURES_FILE).write_text(json.dumps(figures_of(queries)))
        revision = json.loads((index_dir / "manifest.json").read_text())["revision"]
        return scorecard_of(revision, queries, config, len(open_dataset(dataset_dir)), self.verdict)

    def estimate_evaluation(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        queries: Sequence[EvaluationQuery],
        config: EvaluationConfig,
        work_dir: Path,
    ) -> EvaluationCost:
        self._called("estimate_evaluation", model, dataset_dir, index_dir, queries, config, work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        missing = sum(not _run_file(work_dir, run).exists() for run in range(config.half_subsets))
        return EvaluationCost(missing, 2, missing * 30.0, "counted subsets")

    def check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
        checkpoint: CheckpointFn,
    ) -> CheckResult:
        """Writes one small file a seed, as a finished retraining; those that are there are not written again."""
        self._called("check", model, dataset_dir, index_dir, query, ranked, config, work_dir)
        for done in range(config.seeds):
            checkpoint(Progress(done, config.seeds, "retrainings", "leave out"))
            self._wait(lambda at=done: checkpoint(Progress(at, config.seeds, "retrainings", "leave out")))
            run = _run_file(work_dir, done)
            if not run.exists():
                run.parent.mkdir(parents=True, exist_ok=True)
                _write(run, _run_record({"trained by": work_dir.name}))
        checkpoint(Progress(config.seeds, config.seeds, "retrainings", "leave out"))
        return checked(len(open_dataset(dataset_dir)), ranked, config, work_dir)

    def estimate_check(
        self,
        model: ModelConfig,
        dataset_dir: Path,
        index_dir: Path,
        query: Query,
        ranked: Sequence[RankedRow],
        config: CheckConfig,
        work_dir: Path,
    ) -> CheckCost:
        self._called("estimate_check", model, dataset_dir, index_dir, query, ranked, config, work_dir)
        work_dir.mkdir(parents=True, exist_ok=True)
        missing = sum(not _run_file(work_dir, run).exists() for run in range(config.seeds))
        return CheckCost(missing, missing * 2.0, 1 << 20)

    def status(self) -> dict[str, Any]:
        return {"device": "fake", "queue_depth": 0, "max_queue": self.max_queue, "models_loaded": 1, "batches": 0}

    def close(self) -> None:
        self.gate.set()
        self.closed = True
        self._pool.shutdown(wait=True)

    def _called(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, arguments))
        if method in self.errors:
            raise self.errors[method]

    def _wait(self, while_waiting: Any) -> None:
        if self.step_seconds:
            time.sleep(self.step_seconds)
        while not self.gate.wait(0.01):
            while_waiting()

    def _generate(self, query: Query) -> Generated:
        self.gate.wait()
        if "generation" in self.errors:
            raise self.errors["generation"]
        return Generated(question_of(query)[1], ended=True)

    def _attribute(self, rows: Dataset, revision: str, query: Query, ask: AskOptions) -> Attribution:
        self.gate.wait()
        if "attribution" in self.errors:
            raise self.errors["attribution"]
        asked = [question_of(one) for one in query.members or (query,)]
        prompt, completion = asked[0]
        scores = scores_of(rows, " ".join(f"{prompt} {completion}" for prompt, completion in asked))
        searched = searched_in(rows, ask)
        method = ask.method or "ekfac"
        signed = method not in UNSIGNED
        best = sorted(searched, key=lambda at: (-scores[at], at))
        worst = sorted(searched, key=lambda at: (scores[at], at))
        opponents = worst[: ask.top_k] if signed and ask.opponents else []
        return Attribution(
            method=method,
            signed=signed,
            additive=signed,
            revision=revision,
            prompt=prompt,
            completion=completion,
            tokens=tokens_of(prompt, completion),
            measurement=Measurement(kind_of(query), -1.5, len(completion.split())),
            tuned_minus_base=0.25,
            proponents=hits_of(rows, scores, best[: ask.top_k], ask, tokens_of(prompt, completion)),
            opponents=hits_of(rows, scores, opponents, ask, tokens_of(prompt, completion)),
            groups=groups_of(rows, scores, searched, ask),
            diagnostics=Diagnostics(0.5, 0.1, 0.0, 2.0, searched=len(searched), total=len(rows)),
            timings_ms={"queue": 0.1, "tokenize": 0.1, "gradient": 1.0, "search": 0.2, "total": 1.4},
            members=tuple(Member(*one) for one in asked) if query.members else None,
            removal=removal_of(rows, scores, ask),
        )


def _by_length(rows: Dataset, order: str) -> list[SelfInfluence]:
    """The longest text scores highest."""
    scores = [float(len(example_text(row))) for row in rows]
    ranked = sorted(range(len(rows)), key=lambda at: (-scores[at] if order == "desc" else scores[at], at))
    return [SelfInfluence(at, rows[at].id, scores[at], rank) for rank, at in enumerate(ranked, start=1)]


def _write(file: Path, text: str) -> None:
    """Whole or not at all, as the engine does it."""
    write_durably(file, lambda sink: sink.write(text.encode()))


def _run_file(work_dir: Path, number: int) -> Path:
    return work_dir / "retrainings" / "runs" / f"{number:03d}.json"


def _index_info(model: ModelConfig, rows: Dataset, config: IndexConfig) -> IndexInfo:
    return IndexInfo(
        method="ekfac" if config.method == "auto" else config.method,
        serves=SERVES,
        rows=len(rows),
        dims=50,
        bytes=100 * len(rows),
        sketched=False,
        coverage=COVERAGE,
        fingerprints={"model": fingerprint(model), "dataset": rows.sha256},
        revision=fingerprint(model, rows.sha256, config),
        checkpoints=max(1, len(model.checkpoints)),
        options={"projection_dim": 0},
        timings_s={"sketch": 0.1},
    )


def _run_record(record: dict[str, Any]) -> str:
    """With its checksum, as engine.causal.outcomes writes it."""
    text = json.dumps(record, sort_keys=True).encode()
    return json.dumps(record | {"checksum": hashlib.blake2b(text, digest_size=16).hexdigest()})


def _manifest(index_dir: Path, info: IndexInfo) -> str:
    """As the engine writes it: with the checksum of every file, and its own."""
    same = {name: getattr(info, name) for name in ("method", "rows", "dims", "fingerprints", "options", "revision")}
    names = [f"shards/{file.name}" for file in sorted((index_dir / "shards").iterdir())]
    shards = [{"checksums": {name: checksum_of(index_dir / name)}} for name in names]
    return sealed(same | {"schema_version": 1, "state": "ready", "shards": shards, "curvature": {}})
