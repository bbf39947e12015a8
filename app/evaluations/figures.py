"""What a scorecard's charts show: read from the file that the evaluation's job wrote beside it, never computed here."""

from __future__ import annotations

import json
from typing import Any

from app.errors import FilesDamaged, NotFound
from app.evaluations.questions import stored_questions
from app.evaluations.schemas import EvaluationFiguresOut
from app.settings import Settings
from app.tables import EvaluationRow
from engine.evaluate.scorecard import FIGURES_FILE, EvaluationQuery
from engine.types import Query

ASKED_CHARS = 160
_REMEDY = "Evaluate the index again with the same questions: retrainings that were made are kept, so it takes little."


def figures_of(settings: Settings, row: EvaluationRow) -> EvaluationFiguresOut:
    """Raises NotFound (the evaluation is not ready, or was made by a version that kept no figures), FilesDamaged."""
    try:
        stored: dict[str, Any] = json.loads((settings.evaluations_dir / row.id / FIGURES_FILE).read_bytes())
    except FileNotFoundError as error:
        if row.state != "ready":
            detail = f"Evaluation '{row.id}' is {row.state}: its figures come with its scorecard."
            raise NotFound(detail, remedy="Wait until it is ready.") from error
        raise NotFound(f"Evaluation '{row.id}' kept no figures.", remedy=_REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise _damaged(row) from error
    try:
        return _with_questions(stored, row)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise _damaged(row) from error


def _damaged(row: EvaluationRow) -> FilesDamaged:
    return FilesDamaged(f"The file evaluations/{row.id}/{FIGURES_FILE} cannot be read.")


def _with_questions(stored: dict[str, Any], row: EvaluationRow) -> EvaluationFiguresOut:
    questions = stored_questions(row.questions)
    for part in ("composition", "this_run", "leave_out"):
        for entry in stored[part]:
            entry["asked"] = asked_in_words(questions[entry["query"]])
    return EvaluationFiguresOut.model_validate({**stored, "evaluation": row.id})


def asked_in_words(question: EvaluationQuery) -> str:
    """The question and its answer on one line, shortened."""
    text = " → ".join(filter(None, (" ".join(part.split()) for part in _parts(question.query))))
    return text if len(text) <= ASKED_CHARS else f"{text[: ASKED_CHARS - 1]}…"


def _parts(query: Query) -> tuple[str, ...]:
    if query.members:
        return (f"{len(query.members)} queries together",)
    prompt = query.messages[-1].content if query.messages else query.prompt or ""
    return prompt, query.completion or ""
