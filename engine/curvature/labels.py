"""Labels drawn from the model itself, so that rounding hardly changes them.

Shapes: B examples, C target columns, V vocabulary, S numbers of the table.

Gumbel-max (Gumbel 1954): argmax_v (logit_v + G_v) with independent Gumbel numbers G is a draw from the softmax. With
the same G, two distributions at a total variation of t draw different labels with probability 2t/(1+t) at most, so
bfloat16, another device or other companions in a batch hardly change a draw. A uniform number set against the
cumulative sum would move to a neighbour whenever an earlier token's probability moves (docs/decisions.md 70). The G of
a position are V neighbours in one fixed table, from a place drawn for it: V new numbers would cost more than the
softmax. Two positions' windows share few numbers, and those under different tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from engine.batching import PaddedBatch
from engine.capture import LabelSampler

_TABLE = 1 << 22  # 16 MiB; the largest vocabularies are a sixteenth of it
_TABLE_SEED = 20261201


@dataclass(frozen=True)
class LabelDraws:
    """A row's labels depend on (seed, checkpoint, pass, the row's own tokens) alone: not on its batch nor its place.

    row_keys: position → the row's content key (`row_key`). fresh: other labels than those of the first pass.
    """

    seed: int
    checkpoint: int
    row_keys: Sequence[str]
    fresh: bool = False

    def sampler(self, batch: PaddedBatch) -> LabelSampler:
        width = batch.ids_BT.shape[1]
        places_BT = torch.from_numpy(np.stack([self.uniforms(position, width) for position in batch.positions]))
        places_BT = places_BT.to(batch.ids_BT.device)

        def sample(logits_BCV: Tensor, columns_C: Tensor) -> Tensor:
            windows_NV = gumbel_table(logits_BCV.device).unfold(0, logits_BCV.shape[-1], 1)
            places_BC = (places_BT[:, columns_C] * len(windows_NV)).long()
            return (windows_NV[places_BC] + logits_BCV).argmax(-1)

        return sample

    def uniforms(self, position: int, count: int) -> np.ndarray:
        """float64 [count], in [0, 1): where in the table; a longer row begins with the numbers of a shorter one."""
        name = f"{'fresh ' if self.fresh else ''}labels|{self.seed}|{self.checkpoint}|{self.row_keys[position]}"
        key = hashlib.blake2b(name.encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little"))).random(count)


@cache
def gumbel_table(device: torch.device) -> Tensor:
    """float32 [S], the same on every device."""
    generator = np.random.Generator(np.random.Philox(key=_TABLE_SEED))
    table_S = np.empty(_TABLE, np.float32)
    for piece in np.split(table_S, _TABLE >> 16):
        # never log 0: the numbers are multiples of 2⁻⁵³, of which one could be 0
        piece[:] = -np.log(-np.log1p(-generator.random(len(piece)).clip(2.0**-53)))
    return torch.from_numpy(table_S).to(device)


def row_key(ids: Sequence[int] | np.ndarray) -> str:
    """blake2b-64 of a row's tokens."""
    return hashlib.blake2b(np.asarray(ids, np.int64).tobytes(), digest_size=8).hexdigest()
