"""Score matrices that an evaluation kept: a damaged one is made again, never read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.evaluate.scored import Scored, Scorer

SCORES_QN = np.arange(12, dtype=np.float32).reshape(3, 4)


class Kept:
    """As much of a Scorer as keeps what was computed."""

    def __init__(self, work: Path) -> None:
        self.scorer = Scorer.__new__(Scorer)
        self.scorer.work, self.scorer.revision, self.scorer.queries = work, "r1", ()
        self.made = 0

    def scored(self) -> Scored:
        return self.scorer._kept("own", "index", "ekfac", {}, self._make)

    def _make(self) -> tuple[np.ndarray, None]:
        self.made += 1
        return SCORES_QN, None


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text"])
def test_a_damaged_matrix_is_made_again(tmp_path: Path, damage: str) -> None:
    kept = Kept(tmp_path)
    kept.scored()
    assert kept.scored().scores_QN.tolist() == SCORES_QN.tolist() and kept.made == 1
    (file,) = (tmp_path / "scores").iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 4] ^= 1
    file.write_bytes({"flipped": bytes(flipped), "cut": whole[:200], "empty": b"", "text": b"no zip"}[damage])
    assert kept.scored().scores_QN.tolist() == SCORES_QN.tolist() and kept.made == 2
    assert file.read_bytes() == whole
