"""What a lane keeps in memory: loaded models, within a budget, and the indexes that are open on them."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.config import ModelConfig, fingerprint
from engine.dataset import open_dataset
from engine.manifest import MANIFEST_FILE
from engine.model import LoadedModel, load_model
from engine.opened import OpenIndex
from engine.weights import files_stamp, weight_files

IndexKey = tuple[str, Path, Path]  # fingerprint of the model's config, the dataset's directory, the index's
MAX_INDEXES = 8  # opened at a time: an open index holds its sketches' matrices and maps its shards
SHARE = 0.5  # of the device's memory, where no budget is given: activations and indexes need room too


@dataclass(frozen=True)
class _Resident:
    """stamp: how the model's files looked when it was loaded."""

    stamp: object
    model: LoadedModel
    bytes: int


class Residents:
    """The one used longest ago goes first, when all would take more than `budget` bytes; the one at hand always stays.

    A model whose files were rewritten, or an index that was rebuilt, is opened anew. Belongs to the lane's thread.
    """

    def __init__(self, device: str, budget: int | None = None) -> None:
        self.device = device
        self.budget = budget or int(SHARE * _memory_bytes(device))
        self._models: OrderedDict[str, _Resident] = OrderedDict()
        self._indexes: OrderedDict[IndexKey, tuple[object, OpenIndex]] = OrderedDict()

    @property
    def models(self) -> list[LoadedModel]:
        """Used longest ago first."""
        return [resident.model for resident in self._models.values()]

    @property
    def taken(self) -> int:
        """Bytes of the loaded models."""
        return sum(resident.bytes for resident in self._models.values())

    @property
    def open_indexes(self) -> int:
        return len(self._indexes)

    def model(self, config: ModelConfig) -> LoadedModel:
        key, stamp = fingerprint(config), files_stamp(map(Path, config.directories))
        if key in self._models and self._models[key].stamp != stamp:
            self._evict(key)
        if key not in self._models:
            self._make_room(_bytes_on_disk(config))
            loaded = load_model(config, self.device)
            self._models[key] = _Resident(stamp, loaded, model_bytes(loaded))
            self._make_room(0)  # what lay on disk in 16 bits may take more here
        self._models.move_to_end(key)
        return self._models[key].model

    def index(self, config: ModelConfig, key: IndexKey) -> OpenIndex:
        """key: (fingerprint of config, dataset's directory, index's directory)."""
        model = self.model(config)  # first: a model loaded anew takes its open indexes with it
        self._close_rewritten()
        if key not in self._indexes:
            _, dataset_dir, index_dir = key
            stamp = _stamp(index_dir)
            self._indexes[key] = stamp, OpenIndex(model, open_dataset(dataset_dir), index_dir)
        self._indexes.move_to_end(key)
        while len(self._indexes) > MAX_INDEXES:
            self._close(next(iter(self._indexes)))
        return self._indexes[key][1]

    def _make_room(self, wanted: int) -> None:
        """Until `wanted` bytes fit beside what is kept. With nothing wanted, the newest stays whatever it takes."""
        least = 0 if wanted else 1
        while len(self._models) > least and wanted + self.taken > self.budget:
            self._evict(next(iter(self._models)))

    def _evict(self, model_key: str) -> None:
        del self._models[model_key]
        for key in [key for key in self._indexes if key[0] == model_key]:
            self._close(key)

    def _close_rewritten(self) -> None:
        """Indexes that were rebuilt or deleted: their old files take up the disk as long as they are mapped."""
        for key in [key for key, (stamp, _) in self._indexes.items() if stamp != _stamp(key[2])]:
            self._close(key)

    def _close(self, key: IndexKey) -> None:
        self._indexes.pop(key)[1].__exit__()


def model_bytes(model: LoadedModel) -> int:
    """Weights, buffers and every checkpoint's own tensors; what several of them share counts once."""
    held = [*model.module.parameters(), *model.module.buffers()]
    held += [] if model.before is None else model.before.parameters()
    held += [tensor for state in model.states for tensor in state.tensors.values()]
    return _storage_bytes(held)


def _storage_bytes(tensors: Iterable[Tensor]) -> int:
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _bytes_on_disk(config: ModelConfig) -> int:
    return sum(file.stat().st_size for path in config.directories for file in weight_files(Path(path)))


def _memory_bytes(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _stamp(index_dir: Path) -> tuple[int, int]:
    """Changes whenever the manifest is written: a rebuilt index is opened anew."""
    try:
        status = (index_dir / MANIFEST_FILE).stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
