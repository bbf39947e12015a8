"""/ui/compare: one question asked of two indexes, or by two methods, and both answers side by side."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from app.attributions.prefer import Preference
from app.attributions.service import ask
from app.dashboard.asking.comparing import ComparisonView, comparison_view
from app.dashboard.asking.forms import AskForm, question_of
from app.dashboard.asking.page import Stored, load_choices, load_stored
from app.dashboard.asking.shown import page_headers
from app.dashboard.pages import Notice, fragment, notice_of, page, wants_fragment
from app.dependencies import Services, ServicesDep, Tenant
from app.errors import AppError, problem_of
from engine.errors import EngineError

router = APIRouter(prefix="/ui/compare", include_in_schema=False)

# For each of the two; what takes longer becomes a job, which the page then looks after.
WAIT_SECONDS = 20.0


class CompareForm(AskForm):
    """Beside the question: who else is asked, and how. `index` and `method` of AskForm are the first one's."""

    other_index: str = ""
    other_method: str = ""

    @property
    def other(self) -> AskForm:
        """The question as the second one is asked it."""
        fields = self.model_dump(exclude={"other_index", "other_method"})
        return AskForm(**fields | {"index": self.other_index or self.index, "method": self.other_method})


@router.get("")
def compare(
    request: Request, services: ServicesDep, tenant: Tenant, a: str = "", b: str = "", answer: str = ""
) -> Response:
    """a, b: two answers to show. answer: the form is filled in from it."""
    if a and b:
        return _both(request, services, tenant, a, b)
    if named := a or answer:
        return _page(services, tenant, _form_of(load_stored(services, tenant, named)))
    return _page(services, tenant, CompareForm())


@router.post("")
async def compare_two(services: ServicesDep, tenant: Tenant, form: Annotated[CompareForm, Form()]) -> Response:
    """Asks both (stored answers are used) and leads to the address of the two answers."""
    first = AskForm(**form.model_dump(exclude={"other_index", "other_method"}))
    try:
        made = [await _asked(services, tenant, question) for question in (first, form.other)]
    except (AppError, EngineError) as error:
        body = problem_of(error)
        notice = notice_of(body)
        return await run_in_threadpool(_page, services, tenant, form, status=body["status"], notice=notice)
    address = f"/ui/compare?{urlencode({'a': made[0], 'b': made[1]})}"
    return RedirectResponse(address, status_code=303, headers=page_headers())


async def _asked(services: Services, tenant: str, form: AskForm) -> str:
    """The answer's id, perhaps pending."""
    answered = await ask(services, tenant, question_of(form), Preference(WAIT_SECONDS, None), use_stored=True)
    return answered.body["id"]


def _both(request: Request, services: Services, tenant: str, a: str, b: str) -> Response:
    """Raises NotFound."""
    first, second = (load_stored(services, tenant, name) for name in (a, b))
    notice = _unanswered(first, second)
    comparison = None if notice else comparison_view(first.body, second.body)
    if wants_fragment(request.headers):
        return fragment("asking/_comparison.html", comparison=comparison, notice=notice)
    return _page(services, tenant, _form_of(first, second), comparison=comparison, notice=notice)


def _unanswered(first: Stored, second: Stored) -> Notice | None:
    """What to say while, or because, one of the two has no answer."""
    bodies = (first.body, second.body)
    if any(body["state"] == "running" for body in bodies):
        again = f"/ui/compare?{urlencode({'a': first.body['id'], 'b': second.body['id']})}"
        return Notice("Still computing", "One of the two answers is not there yet.", again=again)
    ended = next((body for body in bodies if body["state"] != "succeeded"), None)
    if ended is None:
        return None
    detail = f"Attribution '{ended['id']}' {ended['state']}, so there is nothing to compare."
    return Notice("One of the two has no answer", detail, "Open it to see why, or compare again.")


def _form_of(first: Stored, second: Stored | None = None) -> CompareForm:
    other = {} if second is None else {"other_index": second.form.index, "other_method": second.form.method}
    return CompareForm(**first.form.model_dump() | other)


def _page(
    services: Services,
    tenant: str,
    form: CompareForm,
    *,
    status: int = 200,
    comparison: ComparisonView | None = None,
    notice: Notice | None = None,
) -> Response:
    return page(
        "asking/compare.html",
        section="",
        status=status,
        choices=load_choices(services, tenant, form.index),
        form=form,
        comparison=comparison,
        notice=notice,
    )
