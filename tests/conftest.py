"""What every test shares: one thread, no network, fixed seeds. Set before anything imports torch."""

from __future__ import annotations

import gc
import os
import sys

import pytest

# One thread: figures are then the same on every machine, and two test processes share two cores fairly.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "WHENCE_TORCH_THREADS"):
    os.environ[_name] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Tests that import torch have imported it by now; the others never pay for it."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Each test starts from the same random state, whichever ran before it."""
    import random

    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def what_stays_is_looked_through_once() -> None:
    """Late in a session a full garbage collection took seven seconds, and some tests ask for dozens: what earlier
    modules left is set aside for good, so that each goes through what its own module has made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own WHENCE_* settings must not reach a test."""
    for name in list(os.environ):
        if name.startswith("WHENCE_") and name != "WHENCE_TORCH_THREADS":
            monkeypatch.delenv(name)
