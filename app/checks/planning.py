"""What a check needs before it can run: an answer, the index that gave it, and a training that can be repeated."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter
from sqlalchemy.orm import Session

from app.attributions.asking import query_of
from app.attributions.schemas import AttributionCreate
from app.attributions.service import AttributionsService
from app.checks.schemas import CheckCreate
from app.errors import InvalidRequest, NotReady
from app.indexes.service import READY, IndexesService, LiveIndex
from app.settings import Settings
from app.tables import AttributionRow, IndexRow
from engine.causal.check_requirements import check_request
from engine.causal.checks import CheckConfig, CheckKind, RankedRow
from engine.config import fingerprint
from engine.errors import FingerprintMismatch, IndexUnavailable, InputError
from engine.methods import GradientMethod, get_method
from engine.types import Query

QUERY = TypeAdapter(Query)
RANKING = TypeAdapter(tuple[RankedRow, ...])
CONFIG = TypeAdapter(CheckConfig)
_OF_PATH = "path:attribution_id"
_ASK_AGAIN = "Ask the question again on an index that stands; the new answer can be checked."
_NOT_OF_THE_BODY = ("/model", "/ranked")  # they come with the answer
# Options of one kind alone: given with another one they would be ignored.
_ONLY: dict[str, CheckKind] = {"learning_rate": "tail_patch", "ids": "unlearn", "how": "unlearn"}


@dataclass(frozen=True)
class CheckPlan:
    """query: the answer's, with its completion spelled out. ranked: its proponents, in their order."""

    answer: AttributionRow
    index: IndexRow
    live: LiveIndex
    query: Query
    ranked: tuple[RankedRow, ...]
    config: CheckConfig
    measurement: str

    @property
    def study_key(self) -> str:
        """Of what a retraining's outcomes depend on, beside its rows and seed."""
        files = (self.index.fingerprints or {}).get("model")
        how = self.config.kind, self.config.how
        return fingerprint("check", how, self.live.model, files, self.live.rows.sha256, self.query)


def plan_check(session: Session, tenant: str, settings: Settings, attribution_id: str, body: CheckCreate) -> CheckPlan:
    """Raises NotFound, NotReady, IndexUnavailable, FingerprintMismatch, MissingNeed, InvalidRequest, InvalidOption."""
    answer = AttributionsService(session, tenant).get(attribution_id)
    if answer.result is None:
        detail = f"Attribution '{answer.id}' is {answer.state}: it ranks no rows that could be checked."
        raise NotReady(detail, remedy="Wait until it is answered, or ask again.", pointer=_OF_PATH)
    indexes = IndexesService(session, tenant, settings)
    index = _index_of(answer, indexes)
    live, ranked = indexes.live(index.id), ranked_rows(answer, index)
    config = _config(body, ranked)
    try:
        check_request(live.model, len(live.rows), ranked, config, live.rows.position_of)
    except InputError as error:
        if (error.pointer or "").startswith(_NOT_OF_THE_BODY):
            error.pointer = _OF_PATH
        raise
    return CheckPlan(answer, index, live, asked_query(answer), ranked, config, answer.result["measurement"]["kind"])


def asked_query(answer: AttributionRow) -> Query:
    """As the answer explains it: what the model generated is spelled out."""
    query = query_of(AttributionCreate.model_validate(answer.request))
    if query.generate is None:
        return query
    assert answer.result is not None
    return replace(query, completion=answer.result["query"]["completion"], generate=None)


def ranked_rows(answer: AttributionRow, index: IndexRow) -> tuple[RankedRow, ...]:
    """The proponents that have a score."""
    assert answer.result is not None
    in_nats = _in_nats(answer, index)
    hits = [hit for hit in answer.result["proponents"] if hit["score"] is not None]
    return tuple(RankedRow(hit["example_id"], hit["score"], in_nats) for hit in hits)


def _in_nats(answer: AttributionRow, index: IndexRow) -> bool:
    """Whether −score/N predicts the change of f: of one checkpoint, by the index's own method (DESIGN §2.2)."""
    if answer.method != index.method or index.checkpoints != 1:
        return False
    method = get_method(index.method)
    return isinstance(method, GradientMethod) and method.in_units_of_f(method.parse(index.config["method_options"]))


def _index_of(answer: AttributionRow, indexes: IndexesService) -> IndexRow:
    index = indexes.some([answer.index_id]).get(answer.index_id)
    if index is None:
        detail = f"Index '{answer.index_id}', which gave this answer, was deleted."
        raise IndexUnavailable(detail, remedy=_ASK_AGAIN, pointer=_OF_PATH)
    if index.state != READY:
        detail = f"Index '{index.id}', which gave this answer, is {index.state}."
        raise IndexUnavailable(detail, pointer=_OF_PATH, state=index.state, job_id=index.job_id)
    if index.revision != answer.revision:
        detail = f"Index '{index.id}' was built again since: this ranking is not its ranking any more."
        raise FingerprintMismatch(detail, remedy=_ASK_AGAIN, pointer=_OF_PATH)
    return index


def _config(body: CheckCreate, ranked: Sequence[RankedRow]) -> CheckConfig:
    """Where `rows` is left out, as many as the answer lists."""
    for name, kind in _ONLY.items():
        if name in body.model_fields_set and body.kind != kind:
            raise InvalidRequest(f"{name} belongs to {kind}, not to {body.kind}.", pointer=f"/{name}")
    if not ranked and not body.ids:
        raise InvalidRequest("The answer names no proponents: there is nothing to check.", pointer=_OF_PATH)
    rows = body.rows if "rows" in body.model_fields_set else max(1, min(body.rows, len(ranked)))
    fields = body.model_dump(exclude={"name", "metadata", "rows", "ids"})
    return CheckConfig(**fields, rows=rows, ids=tuple(body.ids))


def question_json(query: Query) -> dict[str, object]:
    """As a row keeps it; `QUERY` reads it."""
    return dataclasses.asdict(query)
