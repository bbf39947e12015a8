"""How soon each page of /ui is painted, with a million rows in a dataset and ten thousand stored answers.

    python -m benchmarks.pages [--rows 1000000] [--answers 10000] [--repeats 5] [--work DIRECTORY]

The home is that of a finished `whence demo` (made once, kept in --work), filled up. A server process of its own,
Debian's chromium on loopback, a new window each time and nothing cached: the browser's own first-contentful-paint, the
median of --repeats. One address of each kind that links below /ui lead to.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright
from sqlalchemy import delete, func, insert, inspect, select
from sqlalchemy.orm import Session

from app.database import Database
from app.settings import Settings
from app.tables import ApiKeyRow, AttributionRow, utc_now
from benchmarks.load import serving
from benchmarks.report import show, write
from whence_client import Whence

COMMAND = "python -m benchmarks.pages"
LIMIT_MS = 200.0
WINDOW_MS = 1000  # to open a window keeps two cores busy for 0.8 s, which is no page's doing
BIG, ANSWERS = 1_000_000, 10_000
FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? null"
LINKS = """() => [...document.querySelectorAll('a[href]')].map(link => new URL(link.href))
    .filter(url => url.origin === location.origin).map(url => url.pathname)"""
_ID = re.compile(r"[a-z]+_[a-z2-7]{20}|(?<=/rows/)\d+")  # an id, or a row of a dataset
NO_PAGES = ("/ui/static", "/ui/login")
WORDS = ("harbour", "ledger", "granite", "orchard", "signal", "copper", "meadow", "lantern")


def prepare(home: Path, rows: int, answers: int) -> str:
    """The home, filled up. Returns the id of the big dataset."""
    if not (home / "whence.sqlite3").exists():
        command = [sys.executable, "-m", "app.cli", "demo", "--no-serve", "--home", str(home)]
        subprocess.run(command, check=True)
    database = Database(Settings(home=home).database)
    with database.write() as session:
        session.execute(delete(ApiKeyRow))
        _more_answers(session, answers)
    database.close()
    with serving(home, home, "") as (_, address), Whence(address) as client:
        found = [one for one in client.datasets.list(name=f"big-{rows}").data if one.name == f"big-{rows}"]
        return found[0].id if found else _upload(client, home, rows)


def _more_answers(session: Session, answers: int) -> None:
    """Copies of those that are there, each a minute older than the last."""
    known = session.scalar(select(func.count()).select_from(AttributionRow)) or 0
    seeds = session.scalars(select(AttributionRow).where(AttributionRow.state == "succeeded").limit(20)).all()
    names = [column.key for column in inspect(AttributionRow).column_attrs if column.key != "id"]
    oldest = utc_now() - timedelta(days=30)
    for start in range(known, answers, 500):
        made = [
            {name: getattr(seeds[number % len(seeds)], name) for name in names}
            | {"created_at": oldest - timedelta(minutes=number), "cache_key": None}
            for number in range(start, min(start + 500, answers))
        ]
        session.execute(insert(AttributionRow), made)


def _upload(client: Whence, home: Path, rows: int) -> str:
    path = home.parent / f"big-{rows}.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            word, other = WORDS[number % 8], WORDS[number // 8 % 8]
            row = {"id": f"row-{number}", "prompt": f"What is the {word} of {number}?", "completion": f" The {other}."}
            file.write(json.dumps(row | {"tags": {"word": word}}) + "\n")
    made = client.datasets.upload(path, name=f"big-{rows}")
    if made.job_id:
        client.jobs.wait(made.job_id)
    path.unlink()
    return made.id


def kinds(address: str, browser: Browser, first: list[str]) -> Iterator[str]:
    """One address of each kind of page, found by following links."""
    seen, waiting = set[str](), [*first, "/ui"]
    while waiting:
        path = waiting.pop(0)
        kind = _ID.sub("ID", path)
        if kind in seen or not path.startswith("/ui") or path.startswith(NO_PAGES) or path.endswith((".csv", ".jsonl")):
            continue
        seen.add(kind)
        page = browser.new_page()
        page.goto(address + path)
        waiting += page.evaluate(LINKS)
        page.close()
        yield path


def first_paint(browser: Browser, url: str) -> float:
    """Milliseconds from the start of the navigation, in an open window without any cache."""
    context = browser.new_context()
    page = context.new_page()
    page.wait_for_timeout(WINDOW_MS)
    page.goto(url, wait_until="load")
    while (found := page.evaluate(FIRST_PAINT)) is None:  # the page's policy forbids the waiting of the library itself
        page.wait_for_timeout(10)
    context.close()
    return float(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=BIG)
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path(".bench/pages"))
    given = parser.parse_args()
    home = given.work.absolute() / "home"
    home.parent.mkdir(parents=True, exist_ok=True)
    big = prepare(home, given.rows, given.answers)
    found: list[dict[str, Any]] = []
    with serving(home, home, "") as (_, address), sync_playwright() as player:
        browser = player.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-features=PreloadTopChromeWebUI,PreloadTopChromeWebUILessNavigations"],
        )
        for path in list(kinds(address, browser, [f"/ui/datasets/{big}"])):
            times = [first_paint(browser, address + path) for _ in range(given.repeats)]
            found.append(
                {
                    "page": _ID.sub("{id}", path),
                    "median ms": round(statistics.median(times), 1),
                    "slowest ms": round(max(times), 1),
                    "within 200 ms": statistics.median(times) < LIMIT_MS,
                }
            )
        browser.close()
    show(f"first paint, {given.rows:,} rows, {given.answers:,} answers", found)
    print(write("pages", COMMAND, found, rows_in_dataset=given.rows, answers=given.answers))


if __name__ == "__main__":
    main()
