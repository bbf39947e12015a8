"""An environment of its own for every peer: their requirements contradict each other's, and some of Whence's.

    python -m benchmarks.quality.peers.install NAME …

requirements/<name>.txt pins every package, and pip resolves nothing: the peers ask for torchvision, which none of the
scripts needs, and which would bring another torch, with its gigabytes of CUDA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(".bench/peers")
REQUIREMENTS = Path(__file__).parent / "requirements"
# What a script imports of the peer: an environment is whole once this works.
MODULES = {"kronfluence": "kronfluence", "bergson": "bergson", "dattri": "dattri", "traker": "trak"}
_STAMP = "installed-requirements"


class CannotInstall(Exception):
    """Says why a peer has no environment on this machine."""


def ensure(name: str, root: Path = ROOT, any_torch: bool = False) -> Path:
    """The peer's python, installed on first use and again when its requirements change. Raises CannotInstall.

    any_torch: take a torch that is not a CPU build, too.
    """
    folder, requirements = root.absolute() / name, REQUIREMENTS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / _STAMP
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return python
    stamp.unlink(missing_ok=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    if not any_torch:
        _check_torch(python, requirements)
    _run([*_pip(python), "install", "--quiet", "--no-deps", "-r", str(requirements)])
    _run([str(python), "-c", f"import torch, transformers, peft, {MODULES[name]}"])
    stamp.write_text(wanted)
    return python


def _check_torch(python: Path, requirements: Path) -> None:
    """Raises CannotInstall where pip would fetch a torch that is not a CPU build."""
    pins = re.findall(r"^torch==.*$", requirements.read_text(), re.MULTILINE)
    told = _run([*_pip(python), "install", "--quiet", "--dry-run", "--no-deps", "--report", "-", *pins])
    for found in json.loads(told[told.index("{") :])["install"]:
        if not found["metadata"]["version"].endswith("+cpu"):
            raise CannotInstall(f"pip finds no CPU build of {pins[0]}; --any-torch takes another.")


def _pip(python: Path) -> list[str]:
    return [str(python), "-m", "pip", "--disable-pip-version-check"]


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip() and "is ignored" not in line]
        raise CannotInstall(f"{' '.join(command[1:5])} … failed: {' '.join(errors[-3:])[:500]}")
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODULES), metavar="NAME", help=f"of {', '.join(MODULES)}")
    parser.add_argument("--root", type=Path, default=ROOT, help="where the environments lie")
    parser.add_argument("--any-torch", action="store_true", help="also a torch with CUDA")
    given = parser.parse_args()
    for name in given.names:
        try:
            print(f"{name}: {ensure(name, given.root, given.any_torch)}", flush=True)
        except CannotInstall as reason:
            print(f"{name}: {reason}", flush=True)


if __name__ == "__main__":
    main()
