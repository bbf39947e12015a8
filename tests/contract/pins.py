"""`python -m tests.contract.pins`: what is installed is what constraints.txt pins, and fits together.

With --online: exit code 0 when pypi.org's advisories can be asked for, 1 when not; nothing else is looked at.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import urllib.request
from importlib.metadata import distributions
from pathlib import Path

CONSTRAINTS = Path(__file__).resolve().parents[2] / "constraints.txt"
ADVISORIES = "https://pypi.org/pypi/pip/24.0/json"  # of one version: what mirrors of the package list do not have
# Of the environment itself, and our own two.
UNPINNED = {"pip", "setuptools", "wheel", "whence", "whence-client"}


def normal(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;#]+)", text, re.MULTILINE)
    return {normal(name): version for name, version in found}


def installed() -> dict[str, str]:
    """What setuptools brings within itself is on the path once it is imported, and is not installed."""
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    return {normal(found.metadata["Name"]): found.version for found in distributions(path=list(places))}


def differing(versions: dict[str, str], pins: dict[str, str]) -> list[str]:
    """A line for every package that is installed and not as pinned; a local part (+cpu) is the build, no version."""
    wrong = []
    for name, version in sorted(versions.items()):
        if name not in UNPINNED and version.split("+")[0] != pins.get(name):
            wrong.append(f"{name} {version} is installed; constraints.txt has {pins.get(name, 'no such package')}")
    return wrong


def online() -> bool:
    try:
        with urllib.request.urlopen(ADVISORIES, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def main() -> int:
    if "--online" in sys.argv[1:]:
        return 0 if online() else 1
    wrong = differing(installed(), pinned(CONSTRAINTS.read_text(encoding="utf-8")))
    print("\n".join(wrong) or "every installed package is the pinned one")
    fits = subprocess.run([sys.executable, "-m", "pip", "check", "--disable-pip-version-check"]).returncode == 0
    return 1 if wrong or not fits else 0


if __name__ == "__main__":
    sys.exit(main())
