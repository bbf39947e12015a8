"""Every page there is, found by following links: texts stay texts, anybody can use it, nothing comes from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.app.dashboard.site import HOSTILE, Site, hostile_site, walk

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

KINDS = {
    "/ui",
    "/ui/attributions",
    "/ui/attributions/ID",
    "/ui/checks/ID",
    "/ui/compare",
    "/ui/datasets",
    "/ui/datasets/ID",
    "/ui/evaluations",
    "/ui/evaluations/ID",
    "/ui/indexes",
    "/ui/indexes/ID",
    "/ui/indexes/ID/self-influence",
    "/ui/jobs",
    "/ui/jobs/ID",
    "/ui/keys",
    "/ui/login",
    "/ui/models",
    "/ui/models/ID",
    "/ui/status",
}
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with hostile_site(tmp_path_factory.mktemp("site")) as site:
        yield site


def violations(page: Any) -> list[str]:
    """Of WCAG A and AA, those that axe-core calls serious or critical: "rule: element"."""
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = Axe().run(page, options=rules).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['html'][:150]}"
        for one in found
        if one["impact"] in SERIOUS
        for node in one["nodes"]
    ]


def test_no_text_becomes_markup_and_no_page_asks_another_host(site: Site, page: Any) -> None:
    elsewhere: list[str] = []
    page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith(site.url) else None)
    shown = set()
    for kind in walk(site, page):
        shown.add(kind)
        assert page.evaluate("() => window.ran ?? null") is None, kind
        assert page.locator("img[src='x'], b[onmouseover]").count() == 0, kind
        assert "49" not in page.title(), kind  # {{7*7}}
    assert shown >= KINDS
    assert elsewhere == []


def test_what_is_hostile_is_shown_as_it_is(site: Site, page: Any) -> None:
    page.goto(site.url + site.first[0])
    assert HOSTILE in page.locator("main").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_a_phone(site: Site, page: Any, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": 390, "height": 844})
    found = {kind: [*violations(page), *too_wide(page)] for kind in walk(site, page)}
    assert {kind: what for kind, what in found.items() if what} == {}


def too_wide(page: Any) -> list[str]:
    beyond = page.evaluate(OVERFLOW)
    return [f"{beyond} px wider than the screen"] if beyond > 0 else []


def test_a_keyboard_reaches_the_content_first_and_then_everything(site: Site, page: Any) -> None:
    page.goto(site.url + site.first[0])
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    reachable = "a[href], button, input:not([type=hidden]), select, textarea, summary"
    stuck = page.locator(f":is({reachable})[tabindex='-1']").count()
    assert stuck == 0
