"""An engine without tensors: small, deterministic, and obedient."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.causal.recipe import FoundRecipe
from engine.causal.recorded import find_recipe
from engine.config import IndexConfig, ModelConfig, fingerprint
from engine.dataset import Dataset, example_text, open_dataset
from engine.errors import IndexUnavailable, NotAModel
from engine.evaluate.scorecard import EvaluationConfig, EvaluationCost, EvaluationQuery, Scorecard, VerdictName
from engine.methods.specs import method_specs
from engine.types import (
    AskOptions,
    Attribution,
    CheckpointFn,
    Coverage,
    Diagnostics,
    Group,
    Hit,
    IndexEstimate,
    IndexInfo,
    Measurement,
    Member,
    MethodSpec,
    ModelInfo,
    Progress,
    Query,
    Removal,
    SelfInfluence,
    Token,
)
from tests.app.fake_scorecards import scorecard_of

COVERAGE = Coverage(tracked_parameters=90, trained_parameters=100, share=0.9)
SERVES = ("ekfac", "bm25", "length", "random")
UNSIGNED = frozenset({"bm25", "length"})


@dataclass
class FakeEngine:
    """Implements EngineClient. A row's score is the number of words it shares with the query, minus the mean.

    Tell it what to do:
        errors["build_index"] = StorageFull("…")   that method raises (submit_attribution: the call itself;
                                                   "attribution": its future)
        gate.clear()                               builds, evaluations and attributions wait until gate.set();
                                                   a waiting build calls checkpoint, so it can be cancelled
        step_seconds = 0.01                        builds take that long a row, evaluations a subset
        verdict = "untrusted"                      what evaluations find of the index's own method
    `calls` records (method, arguments).
    """

    errors: dict[str, Exception] = field(default_factory=dict)
    step_seconds: float = 0.0
    verdict: VerdictName = "trusted"
    max_queue: int = 64
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
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
            shard = shards / f"{position:05d}"
            if not shard.exists():
                shard.write_text(rows[position].id)
        checkpoint(Progress(len(rows), len(rows), "rows", "sketch"))
        info = _index_info(model, rows, config)
        (index_dir / "manifest.json").write_text(json.dumps({"revision": info.revision}))
        return info

    def submit_attribution(
        self, model: ModelConfig, dataset_dir: Path, index_dir: Path, query: Query, ask: AskOptions
    ) -> Future[Attribution]:
        self._called("submit_attribution", model, dataset_dir, index_dir, query, ask)
        if not (index_dir / "manifest.json").is_file():
            raise IndexUnavailable("The index has no manifest.")
        revision = json.loads((index_dir / "manifest.json").read_text())["revision"]
        return self._pool.submit(self._attribute, open_dataset(dataset_dir), revision, query, ask)

    def self_influence(
        self, dataset_dir: Path, index_dir: Path, order: str, limit: int, start: int = 0
    ) -> list[SelfInfluence]:
        self._called("self_influence", dataset_dir, index_dir, order, limit, start)
        rows = open_dataset(dataset_dir)
        scored = [SelfInfluence(at, row.id, float(len(example_text(row)))) for at, row in enumerate(rows)]
        sign = -1 if order == "desc" else 1
        return sorted(scored, key=lambda row: (sign * row.score, row.position))[start : start + limit]

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
                run.write_text(json.dumps({"trained by": work_dir.name}))
        checkpoint(Progress(total, total, "retrainings", "retrain"))
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

    def _attribute(self, rows: Dataset, revision: str, query: Query, ask: AskOptions) -> Attribution:
        self.gate.wait()
        if "attribution" in self.errors:
            raise self.errors["attribution"]
        asked = [_question(one) for one in query.members or (query,)]
        prompt, completion = asked[0]
        scores = _scores(rows, " ".join(f"{prompt} {completion}" for prompt, completion in asked))
        searched = _searched(rows, ask)
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
            tokens=_tokens(prompt, completion),
            measurement=Measurement(_kind(query), -1.5, len(completion.split())),
            tuned_minus_base=0.25,
            proponents=_hits(rows, scores, best[: ask.top_k], ask),
            opponents=_hits(rows, scores, opponents, ask),
            groups=_groups(rows, scores, searched, ask),
            diagnostics=Diagnostics(0.5, 0.1, 0.0, 2.0, searched=len(searched), total=len(rows)),
            timings_ms={"queue": 0.1, "tokenize": 0.1, "gradient": 1.0, "search": 0.2, "total": 1.4},
            members=tuple(Member(*one) for one in asked) if query.members else None,
            removal=_removal(rows, scores, ask),
        )


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


def _kind(query: Query) -> str:
    contrast = "contrastive_" if query.contrast else ""
    return f"{'mean_' if query.members else ''}{contrast}{query.measurement}"


def _removal(rows: Dataset, scores: list[float], ask: AskOptions) -> Removal | None:
    if ask.removal is None:
        return None
    tagged = rows.select(ask.removal.tags) if ask.removal.tags else []
    chosen = {*tagged, *(at for at, row in enumerate(rows) if row.id in ask.removal.ids)}
    total = sum(scores[at] for at in chosen)
    return Removal(len(chosen), total, -total / len(rows))


def _question(query: Query) -> tuple[str, str]:
    """The prompt and completion that are explained."""
    messages = query.messages or ()
    prompt = query.prompt if query.prompt is not None else "\n".join(m.content for m in messages)
    if query.completion is not None:
        return prompt, query.completion
    if query.generate is not None:
        return prompt, " generated answer"
    return "\n".join(m.content for m in messages[:-1]), messages[-1].content


def _scores(rows: Dataset, text: str) -> list[float]:
    asked = Counter(text.lower().split())
    shared = [sum((asked & Counter(example_text(row).lower().split())).values()) for row in rows]
    mean = sum(shared) / len(shared)
    return [count - mean for count in shared]


def _searched(rows: Dataset, ask: AskOptions) -> list[int]:
    wanted = ask.filter
    if wanted is None:
        return list(range(len(rows)))
    return [
        at
        for at, row in enumerate(rows)
        if row.id not in wanted.exclude_ids and all(row.tags.get(k) == v for k, v in wanted.tags.items())
    ]


def _tokens(prompt: str, completion: str) -> tuple[Token, ...]:
    """One token a word."""
    tokens = [Token("<s>", 0, 0, "special", False)]
    for part, text in (("prompt", prompt), ("completion", completion)):
        start = 0
        for word in text.split():
            start = text.index(word, start)
            target = part == "completion"
            tokens.append(Token(word, start, start + len(word), part, target))  # type: ignore[arg-type]
            start += len(word)
    return tuple(tokens)


def _hits(rows: Dataset, scores: list[float], order: list[int], ask: AskOptions) -> tuple[Hit, ...]:
    return tuple(
        Hit(
            rank=rank,
            position=at,
            example_id=rows[at].id,
            score=scores[at],
            normalized_score=scores[at] / 10 if ask.normalize == "cosine" else None,
            percentile=100.0 * sum(score <= scores[at] for score in scores) / len(scores),
            position_shares=(1.0,),
            query_token_scores=(scores[at],) if ask.tokens else None,
            module_scores={"layer.0": scores[at]} if ask.modules else None,
        )
        for rank, at in enumerate(order, start=1)
    )


def _groups(rows: Dataset, scores: list[float], searched: list[int], ask: AskOptions) -> tuple[Group, ...] | None:
    if ask.group_by is None:
        return None
    tag = ask.group_by.removeprefix("tags.")
    members: dict[str, list[float]] = {}
    for at in searched:
        members.setdefault(rows[at].tags.get(tag, ""), []).append(scores[at])
    total = sum(abs(score) for score in scores) or 1.0
    groups = [Group(key, sum(found), sum(abs(s) for s in found) / total, len(found)) for key, found in members.items()]
    return tuple(sorted(groups, key=lambda group: (-group.score, group.key)))
