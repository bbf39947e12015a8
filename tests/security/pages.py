"""Walks every page as a browser would find it, and looks for what other people's text must never become."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from fastapi.testclient import TestClient

MOST_PAGES = 600
ADDRESSES = {
    "href",
    "src",
    "action",
    "formaction",
    "hx-get",
    "hx-post",
    "hx-put",
    "hx-patch",
    "hx-delete",
    "hx-push-url",
}
HTMX = {"HX-Request": "true"}


def hostile(field: str, *, slash: bool = True) -> str:
    """Breaks out of attributes, of elements and of scripts, where it is not escaped; says where it came from."""
    text = f"\"'><img src=x onerror=xss({field})><svg onload=xss({field})>{{{{7*7}}}}`"
    return f"{text}</textarea></title></script><script>xss({field})</script>" if slash else text


@dataclass
class Form:
    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)


class Page(HTMLParser):
    """What a browser makes of a page. faults: what has come to life; shown: fields whose text it shows."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.shown: set[str] = set()
        self.links: list[str] = []
        self.forms: list[Form] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("iframe", "object", "embed", "style", "base", "math") or (tag == "img" and given.get("src") == "x"):
            self.faults.append(f"<{tag}>")
        own = given.get("src", "").startswith("/ui/static/") or given.get("type") == "application/json"
        if tag == "script" and not own:
            self.faults.append(f"<script {given}>")
        for name, value in given.items():
            self._look_at(tag, name, value)
        self._remember(tag, given)

    def handle_data(self, data: str) -> None:
        self.shown |= set(re.findall(r"xss\(([\w ]+)\)", data))

    def _look_at(self, tag: str, name: str, value: str) -> None:
        self.shown |= set(re.findall(r"xss\(([\w ]+)\)", value))
        if name.startswith(("on", "hx-on")) or name == "style":
            self.faults.append(f"<{tag} {name}={value!r}>")
        if name in ADDRESSES and not re.match(r"(/(?!/)|#|\?|$|true$|false$|data:image/)", value):
            self.faults.append(f"<{tag} {name}={value!r}> leads elsewhere")

    def _remember(self, tag: str, given: dict[str, str]) -> None:
        self.links += [given[name] for name in ("href", "hx-get") if given.get(name, "").startswith("/ui")]
        if tag == "form":
            self.forms.append(Form(given.get("method", "get").lower(), given.get("action", ""), {}))
        elif tag in ("input", "textarea", "select", "button") and "name" in given and self.forms:
            self.forms[-1].fields[given["name"]] = given.get("value", "")


@dataclass
class Walk:
    """faults: address → what is wrong there. pages: the addresses of answers in HTML."""

    client: TestClient
    faults: dict[str, Any] = field(default_factory=dict)
    shown: set[str] = field(default_factory=set)
    pages: set[str] = field(default_factory=set)
    others: dict[str, str] = field(default_factory=dict)
    forms: dict[tuple[str, frozenset[str]], Form] = field(default_factory=dict)
    _seen: set[tuple[str, frozenset[str]]] = field(default_factory=set)

    def everything(self, start: Iterable[str]) -> None:
        """Every page that can be reached from these, as a page and as htmx asks for it."""
        waiting = list(start)
        while waiting:
            address = waiting.pop(0)
            if not self._is_new(address):
                continue
            for headers in ({}, HTMX):
                waiting += self.look(address, self.client.get(address, headers=headers))

    def with_hostile_parameters(self, text: str) -> None:
        """Each page again, with this text as each of the parameters that links and forms have."""
        known = {(urlsplit(page).path, name) for page in self.pages for name, _ in parse_qsl(urlsplit(page).query)}
        known |= {(form.action, name) for form in self.forms.values() if form.method == "get" for name in form.fields}
        usual = ("cursor", "q", "next", "refused", "tab", "section", "limit", "page")
        known |= {(urlsplit(page).path, name) for page in list(self.pages) for name in usual}
        for path, name in sorted(known):
            address = f"{path}?{urlencode({name: text})}"
            self.look(address, self.client.get(address))

    def send_every_form(self, text: str) -> None:
        """With this text in each field, the others as they are."""
        for form in [form for form in self.forms.values() if form.method == "post" and "logout" not in form.action]:
            for name in form.fields:
                for headers in ({}, HTMX):
                    sent = self.client.post(form.action, data=form.fields | {name: text}, headers=headers)
                    self.look(f"POST {form.action} {name}", sent)

    def look(self, address: str, answer: Any) -> list[str]:
        """Further addresses."""
        kind = answer.headers.get("content-type", "").partition(";")[0]
        wrong = list(_wrong_headers(answer))
        if answer.status_code >= 500:
            wrong.append(str(answer.status_code))
        links: list[str] = []
        if kind == "text/html":
            page = Page(answer.text)
            wrong += page.faults
            self.pages.add(address)
            self.shown |= page.shown
            links = page.links
            self.forms |= {(form.action, frozenset(form.fields)): form for form in page.forms}
        else:
            self.others[address] = kind
            wrong += _formulas(answer.text) if kind == "text/csv" else []
        if wrong:
            self.faults[address] = wrong
        return links

    def _is_new(self, address: str) -> bool:
        """Pages of one kind by their parameters' names: their values are ids and cursors without end."""
        parts = urlsplit(address)
        key = (parts.path, frozenset(name for name, _ in parse_qsl(parts.query)))
        if key in self._seen or parts.path.startswith("/ui/static/") or len(self._seen) >= MOST_PAGES:
            return False
        self._seen.add(key)
        return True


def _formulas(text: str) -> list[str]:
    """Cells that a spreadsheet would compute."""
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    found = [cell for cell in cells if cell[:1] in ("=", "+", "-", "@", "\t", "\r")]
    return [f"a cell begins with {cell[:20]!r}" for cell in found if not re.fullmatch(r"[+-]?\d[\d.e+-]*", cell)]


def _wrong_headers(answer: Any) -> Iterator[str]:
    policy = answer.headers.get("content-security-policy", "")
    if "default-src 'none'" not in policy or "unsafe" in policy:
        yield f"Content-Security-Policy: {policy!r}"
    if answer.headers.get("x-content-type-options") != "nosniff":
        yield "no X-Content-Type-Options"
    for name in ("location", "hx-redirect", "hx-push-url"):
        if not re.match(r"(/ui(/|$|\?)|$)", answer.headers.get(name, "")):
            yield f"{name}: {answer.headers[name]!r}"
