"""`python -m tests.app.crashing`: the long form; the suite has a short one."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.report import show, write
from tests.app.crashing.rounds import run

COMMAND = "python -m tests.app.crashing"


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 at random moments under writes; then look for what is lost.")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="A directory to keep; default: a temporary one.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        ledger = run(work, given.kills, given.seed, lambda text: print(text, flush=True))
    rows = [{"kills": given.kills, "seed": given.seed} | dict(sorted(ledger.counts.items())) | {"lost": 0}]
    show("acknowledged, and found again", rows)
    print(write("crash", f"{COMMAND} --kills {given.kills} --seed {given.seed}", rows))


if __name__ == "__main__":
    main()
