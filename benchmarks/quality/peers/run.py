"""Every peer, every method, every checkpoint of a task; what is done is not done again, and no failure stops the rest.

    python -m benchmarks.quality.peers.run --task DIR --out DIR [--peers kronfluence bergson …] [--checkpoints final]

Results lie in <out>/<peer>-<fingerprint of the task and the peer's code>/; <out>/summary.json lists them, and under
"not_run" what could not run and why.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from benchmarks.quality.peers import install, results
from benchmarks.quality.peers.given import Given
from benchmarks.quality.peers.install import CannotInstall
from benchmarks.quality.peers.results import PeerScores

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[2]
SHARED = ("given.py", "batch.py", "functional.py", "written.py")
TIME_LIMIT = 1800.0  # seconds for one peer and checkpoint
MEMORY_LIMIT = 16 << 30  # bytes of address space: a peer that grows without bound fails alone


@dataclass(frozen=True)
class Peer:
    """every: methods for every checkpoint. final: those for the last alone, for their cost or as a check."""

    every: tuple[str, ...]
    final: tuple[str, ...] = ()


PEERS = {
    "kronfluence": Peer(("identity", "diagonal", "kfac", "ekfac")),
    "bergson": Peer(("dot", "cosine", "kfac", "ekfac", "trackstar"), ("gram", "trak", "source")),
    "traker": Peer(("trak",)),
    "dattri": Peer(("trak",), ("dot", "cosine", "datainf", "ekfac")),
}


@dataclass(frozen=True)
class NotRun:
    """method and checkpoint: empty where it is the whole peer."""

    peer: str
    reason: str
    method: str = ""
    checkpoint: str = ""


@dataclass
class Outcome:
    """scores: rows weighted as in the recipe's loss (results.weighted)."""

    scores: list[PeerScores] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)


def run_peers(
    task: Path,
    out: Path,
    peers: Sequence[str] = tuple(PEERS),
    checkpoints: Literal["all", "final"] = "all",
    environments: Path = install.ROOT,
    say: Callable[[str], object] = lambda _line: None,
) -> Outcome:
    """out: kept between runs. environments: where the peers are installed. Never raises for what a peer does."""
    outcome, given = Outcome(), Given(task.absolute())
    names = given.checkpoints if checkpoints == "all" else given.checkpoints[-1:]
    for peer in peers:
        say(f"{peer} …")
        folder = out.absolute() / f"{peer}-{_fingerprint(given, peer)}"
        try:
            _run_peer(peer, given, folder, names, environments, outcome, say)
        except CannotInstall as reason:
            outcome.not_run.append(NotRun(peer, str(reason)))
    _summarise(outcome, out)
    return outcome


def _run_peer(
    peer: str,
    given: Given,
    folder: Path,
    checkpoints: Sequence[str],
    environments: Path,
    outcome: Outcome,
    say: Callable[[str], object],
) -> None:
    weights_N = np.array([row.weight for row in given.rows])
    for checkpoint in checkpoints:
        methods = _methods(peer, checkpoint == given.checkpoints[-1])
        missing = [method for method in methods if not (folder / f"{method} {checkpoint}.done").exists()]
        if missing:
            say(f"  {peer}, {checkpoint}: {', '.join(missing)}")
            python = install.ensure(peer, environments)
            reason = _run_script(python, peer, given, folder, checkpoint, missing)
            outcome.not_run += _failures(peer, folder, checkpoint, missing, reason)
    outcome.scores += [results.weighted(found, weights_N) for found in results.read(folder)]


def _methods(peer: str, is_final: bool) -> tuple[str, ...]:
    return PEERS[peer].every + (PEERS[peer].final if is_final else ())


def _run_script(
    python: Path, peer: str, given: Given, folder: Path, checkpoint: str, methods: Sequence[str]
) -> str | None:
    """None, or why the script itself ended early: its methods' own failures are in files."""
    folder.mkdir(parents=True, exist_ok=True)
    module = f"{__package__}.{peer}_scores"
    places = ("--task", str(given.path), "--out", str(folder), "--checkpoint", checkpoint)
    command = [str(python), "-m", module, *places, "--methods", *methods]
    with (folder / f"{checkpoint}.log").open("a") as log:
        try:
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=TIME_LIMIT,
                check=False,
                preexec_fn=_limit_memory,
            )
        except subprocess.TimeoutExpired:
            return f"It took longer than {TIME_LIMIT:.0f} s."
    return f"The script ended with status {done.returncode}." if done.returncode else None


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def environment() -> dict[str, str]:
    """One thread, no accelerator, nothing fetched; nothing of the project's own environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    quiet = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    return kept | quiet | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _failures(peer: str, folder: Path, checkpoint: str, methods: Sequence[str], reason: str | None) -> list[NotRun]:
    found = []
    for method in methods:
        failed = folder / f"{method} {checkpoint}.failed"
        if failed.exists():
            found.append(NotRun(peer, failed.read_text(), method, checkpoint))
        elif not (folder / f"{method} {checkpoint}.done").exists():
            found.append(NotRun(peer, reason or "The script ended before it.", method, checkpoint))
    return found


def _fingerprint(given: Given, peer: str) -> str:
    """Of the task and of all that makes the peer's scores: other ones get another folder."""
    digest = hashlib.sha256()
    files = sorted(path for path in given.path.rglob("*") if path.is_file())
    code = [*(HERE / name for name in SHARED), *sorted(HERE.glob(f"{peer}_*.py")), HERE / f"requirements/{peer}.txt"]
    for path in (*files, *code):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _summarise(outcome: Outcome, out: Path) -> None:
    summary = {
        "results": [asdict(found.about) for found in outcome.scores],
        "not_run": [asdict(found) for found in outcome.not_run],
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=Path, required=True, help="what benchmarks.quality.peers.task wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--checkpoints", choices=("all", "final"), default="all")
    parser.add_argument("--environments", type=Path, default=install.ROOT)
    given = parser.parse_args()
    outcome = run_peers(given.task, given.out, given.peers, given.checkpoints, given.environments, _say)
    print(f"{len(outcome.scores)} score matrices; not run: {len(outcome.not_run)}")
    for found in outcome.not_run:
        print(f"  {found.peer} {found.method} {found.checkpoint}: {found.reason}")


if __name__ == "__main__":
    main()
