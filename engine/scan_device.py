"""The pass over a shard's stored bytes on a GPU: as engine/scan.py, but for where it multiplies.

Rows are copied to the device once, while ROOM of its memory stays free for models and activations; what does not fit is
copied anew for every search. There they are multiplied in float64: of int8, whole numbers below 2⁵³ are added exactly
in whatever order, so that every score is the processor's to the last bit; of the others the sum is more exact.

Dimensions: Q queries, N rows of the shard, W stored numbers a row, K rows of a piece.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from engine.errors import NonFiniteGradient
from engine.scan import Queries
from engine.shard import LEVELS, Shard

ROOM = 0.25  # of the device's memory
PIECE_NUMBERS = 1 << 26  # 512 MiB as float64


class DeviceRows:
    """The shards of one open index on `device`. Belongs to the thread that searches it."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._kept: dict[str, Tensor] = {}

    def scan(self, shard: Shard, queries: Queries) -> np.ndarray:
        """float32 [Q, N], as `engine.scan.scan`. Raises NonFiniteGradient."""
        codes = self._codes(shard)
        query_QW = torch.from_numpy(queries.whole[0] if shard.row_scales_N is not None else queries.query_QW)
        query_QW = query_QW.to(self.device, torch.float64)
        found_QN = torch.empty(len(queries), len(codes), dtype=torch.float64, device=self.device)
        start = 0
        for piece in codes.split(max(1, PIECE_NUMBERS // codes.shape[1])):
            piece_KW = piece.to(self.device, non_blocking=True).to(torch.float64)
            if shard.row_scales_N is not None:
                piece_KW -= LEVELS
            for query_W, found_N in zip(query_QW, found_QN, strict=True):  # each alone: company changes nothing
                torch.mv(piece_KW, query_W, out=found_N[start : start + len(piece_KW)])
            start += len(piece_KW)
        if shard.row_scales_N is not None:
            found_QN *= torch.from_numpy(queries.whole[1]).to(self.device).unsqueeze(1)
            found_QN *= torch.from_numpy(shard.row_scales_N).to(self.device)
        scores_QN = found_QN.to(torch.float32).cpu().numpy()
        if not np.isfinite(scores_QN).all():
            raise NonFiniteGradient(f"A score overflows float32 in shard {shard.record.name}.")
        return scores_QN

    def _codes(self, shard: Shard) -> Tensor:
        """[N, W] on the device where there is room, else in memory that it can be copied from at full speed."""
        if shard.record.name in self._kept:
            return self._kept[shard.record.name]
        codes = torch.from_numpy(shard.codes)
        if self.device.type != "cuda":
            return codes
        free, total = torch.cuda.mem_get_info(self.device)
        if free - codes.nbytes < ROOM * total:
            return codes.pin_memory()
        self._kept[shard.record.name] = codes.to(self.device)
        return self._kept[shard.record.name]
