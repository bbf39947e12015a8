"""The API's description is committed: a change of contract shows in review.

python -m tests.contract.openapi_snapshot            # fails, and says what differs
python -m tests.contract.openapi_snapshot --write    # accepts the present contract
"""

from __future__ import annotations

import difflib
import json
import sys
import tempfile
from pathlib import Path

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def current_contract() -> str:
    """The OpenAPI document of the service as it is, in a stable form."""
    from app.main import create_app
    from app.settings import Settings

    with tempfile.TemporaryDirectory() as home:
        document = create_app(Settings(home=Path(home))).openapi()
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def difference() -> list[str]:
    """Lines of a unified diff from the committed contract to the current one; empty when equal."""
    committed = SNAPSHOT.read_text() if SNAPSHOT.exists() else ""
    return list(
        difflib.unified_diff(
            committed.splitlines(), current_contract().splitlines(), "docs/openapi.json", "app.main", n=2, lineterm=""
        )
    )


def main(arguments: list[str]) -> int:
    if arguments == ["--write"]:
        SNAPSHOT.write_text(current_contract())
        print(f"wrote {SNAPSHOT.name}")
        return 0
    changes = difference()
    if changes:
        print("\n".join(changes[:80]))
        print("The API changed. If that is meant: add --write to this command, and a line to CHANGELOG.md.")
    return 1 if changes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
