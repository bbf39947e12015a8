"""attribute(): from queries to ranked training rows. Queries of one micro-batch share their forward passes.

Shapes: N rows, K hits, C checkpoints, D numbers of a row over all checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from engine import search
from engine.agreement import Apart, bm25_agreement, checkpoint_agreement, scores_apart
from engine.clusters import with_clusters
from engine.config import fingerprint
from engine.cores import beside
from engine.diagnostics import diagnostics, group_sums, sample_rows
from engine.errors import EngineError, InvalidOption, InvalidQuery, MethodNotServed, NonFiniteGradient
from engine.explain import QueryVector
from engine.hits import describe, has_self_scores
from engine.lexical import RowQuery
from engine.measure import Measured, measure_only, measure_with_gradients
from engine.methods import GradientMethod, LossMethod, Method, ReplayMethod, RowMethod, get_method
from engine.opened import OpenIndex
from engine.probing import enough_left, may_probe, probe
from engine.question import Question, prepare
from engine.removal import check_removal, removal
from engine.replayed import Replayed, replayed
from engine.score_errors import positions_of, with_rank_intervals
from engine.scores import Scores
from engine.types import AskOptions, Attribution, Diagnostics, Filter, Measurement, Query, Removal

_SATURATED = 0.99
_MANY_ROWS = 50_000  # from here on figures about all scores take as long as all else: worth a thread


@dataclass
class Ask:
    """One query on its way to its answer."""

    query: Query
    options: AskOptions
    method: Method
    timings: dict[str, float] = field(default_factory=dict)
    question: Question | None = None
    vector: QueryVector | None = None
    measured: Measured | None = None
    scores: Scores | None = None
    replayed: Replayed | None = None

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.timings[phase] = self.timings.get(phase, 0.0) + 1000 * (time.perf_counter() - started)


def attribute(index: OpenIndex, requests: Sequence[tuple[Query, AskOptions]]) -> list[Attribution | EngineError]:
    """Answer every request, in order. One that cannot be answered yields its error and harms no other."""
    return [answer for _, answer in sorted(attribute_each(index, requests), key=lambda pair: pair[0])]


def attribute_each(
    index: OpenIndex, requests: Sequence[tuple[Query, AskOptions]]
) -> Iterator[tuple[int, Attribution | EngineError]]:
    """(place among the requests, its answer), each as soon as it is made."""
    asks: dict[int, Ask] = {}
    for slot, (query, options) in enumerate(requests):
        try:
            asks[slot] = _begin(index, query, options)
        except EngineError as error:
            yield slot, error
    failed = _measure_each(index, asks)
    yield from failed.items()
    measured = {slot: ask for slot, ask in asks.items() if slot not in failed}
    _scan_together(index, list(measured.values()))
    for slot, ask in measured.items():
        try:
            answer = _answer(index, ask)
        except EngineError as error:
            answer = error
        yield slot, answer


def score_query(index: OpenIndex, query: Query, method: str | None = None) -> np.ndarray:
    """float32 [N]: the score of every row; by the index's own method, or by another that it serves."""
    ask = _begin(index, query, AskOptions(method=method))
    _measure(index, [ask])
    return _every_score(index, ask)


def _begin(index: OpenIndex, query: Query, options: AskOptions) -> Ask:
    method = get_method(options.method or index.plan.method.name)
    if method.name not in index.plan.serves:
        served = ", ".join(index.plan.serves)
        raise MethodNotServed(
            f"This index cannot serve {method.name!r}; it serves {served}.", serves=list(index.plan.serves)
        )
    ask = Ask(query, options, method)
    if ask.options.normalize is None:
        ask.options = replace(options, normalize=getattr(index.plan.method_options, "normalize", "none"))
    _check_cosine(ask)
    check_removal(ask)
    with ask.timed("tokenize"):
        ask.question = prepare(index.model, index.plan.options.max_length, query)
    return ask


def _check_cosine(ask: Ask) -> None:
    if ask.options.normalize == "cosine" and not has_self_scores(ask.method):
        raise InvalidOption(
            f"{ask.method.name} solves for the query alone and never learns a row's score on itself, which a cosine "
            "divides by.",
            remedy="Ask with normalize: none, or with an index of a method that whitens both sides, ekfac for one.",
            pointer="/normalize",
        )


def _measure_each(index: OpenIndex, asks: dict[int, Ask]) -> dict[int, EngineError]:
    """Measure all together; where that fails (a gradient overflows, say) each alone. Errors by slot."""
    try:
        _measure(index, list(asks.values()))
    except EngineError as error:
        if len(asks) == 1:
            return dict.fromkeys(asks, error)
        return {s: e for slot, ask in asks.items() for s, e in _measure_each(index, {slot: ask}).items()}
    return {}


def _measure(index: OpenIndex, asks: list[Ask]) -> None:
    """f, the base's f and, where the method needs them, gradients: one padded batch for all queries."""
    with_gradient = [ask for ask in asks if isinstance(ask.method, GradientMethod)]
    without = [ask for ask in asks if not isinstance(ask.method, GradientMethod)]
    started = time.perf_counter()
    if with_gradient:
        vectors, measured = measure_with_gradients(index, [_question(ask) for ask in with_gradient])
        for ask, vector, value in zip(with_gradient, vectors, measured, strict=True):
            ask.vector, ask.measured = vector, value
    if without:
        for ask, value in zip(without, measure_only(index, [_question(ask) for ask in without]), strict=True):
            ask.measured = value
    for ask in asks:
        ask.timings["gradient"] = 1000 * (time.perf_counter() - started)


def _scan_together(index: OpenIndex, asks: list[Ask]) -> None:
    """Read the rows once for all queries that are compared with them as they are. What a query gets is what it would
    get alone; where one of them has no finite score each is scored by itself, and that one alone is refused."""
    alike = [ask for ask in asks if ask.vector is not None and not _is_cosine(ask) and not may_probe(index, ask)]
    if len(alike) < 2:
        return
    started = time.perf_counter()
    query_QD = np.stack([ask.vector.vector_D.astype(np.float32) for ask in alike if ask.vector is not None])
    try:
        scores_QN = search.score_all(index.store, query_QD)
    except NonFiniteGradient:
        return
    for ask, scores_N in zip(alike, scores_QN, strict=True):
        ask.scores = _whole(index, scores_N)
        ask.timings["search"] = 1000 * (time.perf_counter() - started)


def _is_cosine(ask: Ask) -> bool:
    return ask.options.normalize == "cosine" and isinstance(ask.method, GradientMethod)


def _question(ask: Ask) -> Question:
    assert ask.question is not None
    return ask.question


def _answer(index: OpenIndex, ask: Ask) -> Attribution:
    question, measured = _question(ask), ask.measured
    assert measured is not None
    with ask.timed("search"):
        allowed_N = allowed_rows(index, ask.options.filter)
        scores = _scores(index, ask, allowed_N)
        figures_of = beside(lambda: _figures(index, scores, allowed_N), worthwhile=len(scores.scores_M) > _MANY_ROWS)
        best = _ranked(index, ask, scores, allowed_N, largest=True)
        worst = _ranked(index, ask, scores, allowed_N, largest=False)
    known_M, sample = scores.scores_M, scores.sample_M
    with ask.timed("explain"):
        hits = describe(index, ask, scores, best, worst, sample)
        apart = _apart(index, ask, scores, allowed_N, positions_of(hits))
        hits = with_rank_intervals(index, ask, scores, allowed_N, _weights(index, ask), apart, hits)
        proponents, opponents, clusters = with_clusters(index.dataset, *hits, additive=_additive(ask))
        key = ask.options.group_by
        groups = None if key is None else tuple(group_sums(known_M, _tag_values(index, key), allowed_N, sample))
        figures = _with_agreement(index, ask, scores, allowed_N, apart, figures_of())
        removed = removal(index, ask, known_M)
    return Attribution(
        method=ask.method.name,
        signed=ask.method.signed,
        additive=_additive(ask),
        revision=index.revision,
        prompt=question.prompt,
        completion=question.completion,
        tokens=question.tokens,
        measurement=Measurement(question.kind, measured.value, question.targets),
        tuned_minus_base=None if measured.base_value is None else measured.value - measured.base_value,
        proponents=proponents,
        opponents=opponents,
        groups=groups,
        diagnostics=_with_warnings(index, ask, measured, removed, figures),
        timings_ms={phase: round(value, 3) for phase, value in ask.timings.items()},
        members=question.members if len(question.members) > 1 else None,
        removal=removed,
        clusters=clusters,
    )


def _additive(ask: Ask) -> bool:
    return ask.method.additive and ask.options.normalize == "none"


def _scores(index: OpenIndex, ask: Ask, allowed_N: np.ndarray | None) -> Scores:
    if ask.scores is not None:
        return ask.scores
    if may_probe(index, ask) and enough_left(allowed_N):
        if ask.vector is None:
            ask.vector = _representation(index, _question(ask))
        return probe(index, ask.vector, ask.method.signed)
    return _whole(index, _every_score(index, ask))


def _whole(index: OpenIndex, scores_N: np.ndarray) -> Scores:
    return Scores(len(scores_N), scores_N, sample_M=sample_rows(len(scores_N), index.store.manifest.width))


def _figures(index: OpenIndex, scores: Scores, allowed_N: np.ndarray | None) -> Diagnostics:
    allowed_M = None if allowed_N is None else scores.among(allowed_N)
    figures = diagnostics(scores.scores_M, scores.among(index.lengths_N), allowed_M, scores.sample_M)
    return replace(
        figures,
        searched=scores.rows if allowed_N is None else int(np.count_nonzero(allowed_N)),
        total=scores.rows,
        search=scores.search,
        recall_at_10=scores.recall_at_10,
    )


def _every_score(index: OpenIndex, ask: Ask) -> np.ndarray:
    """float32 [N]"""
    question = _question(ask)
    if isinstance(ask.method, RowMethod):
        asked = [text for member in question.members for text in (member.prompt, member.completion)]
        seed = fingerprint(index.revision, *asked)
        return ask.method.scores(index.corpus, RowQuery(question.text, seed)).astype(np.float32)
    if isinstance(ask.method, LossMethod):
        return index.self_scores_NC[:, 0]
    if isinstance(ask.method, ReplayMethod):
        (ask.replayed,) = replayed(index.store, index.model, index.dataset, [question], index.between)
        return ask.replayed.scores_N
    if ask.vector is None:
        ask.vector = _representation(index, question)
    if _is_cosine(ask):
        return _cosines(index, ask.vector)
    return search.score_all(index.store, ask.vector.vector_D[None].astype(np.float32))[0]


def _representation(index: OpenIndex, question: Question) -> QueryVector:
    """Of a set, the mean of its members' unit vectors: a score is then the mean of their cosines."""
    assert index.representation is not None
    chosen = [question.sequences[s] for s in question.explained]
    vector_D = np.zeros(index.store.manifest.dims)
    for batch in index.batcher.batches(chosen, [1.0] * len(chosen), [-1] * len(chosen)):
        vectors_BD = index.representation.compute(batch.padded, odds=question.odds)
        vector_D += vectors_BD.double().sum(0).cpu().numpy() / len(chosen)
    return QueryVector(vector_D, np.ones(1), np.ones(1))


def _weights(index: OpenIndex, ask: Ask) -> np.ndarray | None:
    """float64 [N, C]: what every checkpoint's score of a row is multiplied by; None = 1."""
    return _cosine_weights(index, ask.vector) if _is_cosine(ask) and ask.vector is not None else None


def _cosine_weights(index: OpenIndex, vector: QueryVector) -> np.ndarray:
    """float64 [N, C]: what makes each checkpoint's score a cosine, and their sum the mean; 0 for a zero gradient."""
    norms_NC = np.sqrt(index.self_scores_NC.astype(np.float64)) * np.sqrt(vector.self_C) * vector.factors_C
    norms_NC *= index.row_factors_NC
    return np.divide(1.0 / len(vector.self_C), norms_NC, out=np.zeros_like(norms_NC), where=norms_NC > 0)


def _cosines(index: OpenIndex, vector: QueryVector) -> np.ndarray:
    """float32 [N]: mean over checkpoints of score_c/√(s_c(q)·s_c(z))."""
    query_1D = vector.vector_D[None].astype(np.float32)
    scores_CN = [search.score_all(index.store, query_1D, checkpoints=[c])[0] for c in range(len(vector.self_C))]
    return (np.stack(scores_CN, 1) * _cosine_weights(index, vector)).sum(1).astype(np.float32)


def _ranked(
    index: OpenIndex, ask: Ask, scores: Scores, allowed_N: np.ndarray | None, *, largest: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(positions [K], scores [K]): of a signed method only those on the right side of zero."""
    k = ask.options.top_k
    if not largest and not (ask.method.signed and ask.options.opponents):
        return np.zeros(0, np.int64), np.zeros(0)
    if ask.vector is None:
        positions, found = search.rank(scores.scores_M, k, largest=largest, allowed_N=allowed_N)
    else:
        positions, found = search.top_k(
            index.store,
            ask.vector.vector_D.astype(np.float32),
            scores.scores_M,
            k,
            largest=largest,
            allowed_N=scores.rankable(allowed_N),
            weights_NC=_weights(index, ask),
            positions_M=scores.positions_M,
        )
    if not ask.method.signed:
        return positions, found
    keep = found > 0 if largest else found < 0
    return positions[keep], found[keep]


def allowed_rows(index: OpenIndex, wanted: Filter | None) -> np.ndarray | None:
    """bool [N], None = all. An id that no row has is an error, not an empty filter."""
    if wanted is None or not (wanted.tags or wanted.exclude_ids):
        return None
    allowed_N = np.zeros(index.store.manifest.rows, bool)
    allowed_N[index.dataset.select(wanted.tags)] = True
    for example_id in wanted.exclude_ids:
        position = index.dataset.position_of(example_id)
        if position is None:
            raise InvalidQuery(f"No row has the id {example_id!r}.", pointer="/filter/exclude_ids")
        allowed_N[position] = False
    return allowed_N


def _tag_values(index: OpenIndex, group_by: str) -> list[str | None]:
    key = group_by.removeprefix("tags.")
    if not group_by.startswith("tags.") or not key:
        raise InvalidQuery(f"Cannot group by {group_by!r}.", remedy="Use group_by: tags.<key>.", pointer="/group_by")
    return index.dataset.tag_values(key)


def _apart(
    index: OpenIndex, ask: Ask, scores: Scores, allowed_N: np.ndarray | None, hits_K: np.ndarray
) -> Apart | None:
    if ask.vector is None or not isinstance(ask.method, GradientMethod):
        return None
    return scores_apart(index.store, ask.vector.vector_D, scores, allowed_N, _weights(index, ask), hits_K)


def _with_agreement(
    index: OpenIndex,
    ask: Ask,
    scores: Scores,
    allowed_N: np.ndarray | None,
    apart: Apart | None,
    figures: Diagnostics,
) -> Diagnostics:
    words = bm25_agreement(index, _question(ask).text, scores, allowed_N) if ask.method.name != "bm25" else None
    if ask.vector is None or not isinstance(ask.method, GradientMethod):
        return replace(figures, bm25_agreement=words)
    return replace(
        figures,
        query_norm=float(np.sqrt(ask.vector.self_C).mean()),
        checkpoint_agreement=checkpoint_agreement(apart),
        bm25_agreement=words,
    )


def _with_warnings(
    index: OpenIndex, ask: Ask, measured: Measured, removed: Removal | None, figures: Diagnostics
) -> Diagnostics:
    warnings: list[str] = []
    if measured.base_value is not None and measured.value <= measured.base_value:
        warnings.append(
            "Fine-tuning did not raise this output's probability: what follows explains little, because there is "
            "little to explain."
        )
    if measured.base_value is None:
        warnings.append("The model before fine-tuning is not known, so tuned_minus_base cannot be measured.")
    if measured.mean_probability > _SATURATED and not _question(ask).odds:
        warnings.append(
            f"The model is nearly certain of this output (mean token probability {measured.mean_probability:.3f}): "
            "the gradient of its log-probability is small and scores are less reliable; ask with "
            'measurement: "log_odds" (`whence ask --log-odds`), which does not saturate.'
        )
    if ask.replayed is not None and (elsewhere := ask.replayed.warning(measured.value)):
        warnings.append(elsewhere)
    if removed is not None and removed.predicted_change is None:
        warnings.append(
            "The removal's score says in which direction the measurement would move, not how far: scores are in its "
            "units only in an index whose method is an inverse curvature (exponent 1, ensemble_power 0)."
        )
    if ask.options.tokens and ask.vector is not None and _question(ask).contrastive:
        warnings.append(
            "Shares by token are of the completion alone: they add up to its part of the score, from which the "
            "contrast's part is still to be taken."
        )
    if ask.vector is not None and not ask.vector.vector_D.any():
        warnings.append("The query's gradient is zero in every tracked module: all scores are zero.")
    warnings += [w for w in index.store.manifest.warnings if "recipe unknown" in w or "attributed" in w]
    return replace(figures, warnings=(*warnings, *figures.warnings))
