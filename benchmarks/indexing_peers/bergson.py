# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
"""`bergson build` of a LoRA adapter in float32: every row's gradient, projected to 16 × 16 a module or whole, on disk.

`ekfac`: its EK-FAC factors of the same rows first, then the build (whole: its EK-FAC allows no projection). Runs in
Bergson's own environment.

What is timed is bergson.build's build_worker, and its hessian_worker, without the loading of the model and the tokens.
"""

from __future__ import annotations

import shutil
from importlib.metadata import version
from pathlib import Path

from bergson.collection import collect_gradients
from bergson.config.config import HessianConfig, IndexConfig, PreprocessConfig
from bergson.data import allocate_batches
from bergson.hessians.hessian_approximations import fit_factored_hessians
from bergson.utils.worker_utils import create_processor, setup_data_pipeline, setup_model_and_peft

from benchmarks.indexing_peers.contender import Contender, seconds, share
from benchmarks.quality.peers.bergson_session import prepare
from benchmarks.quality.peers.given import Given
from benchmarks.quality.peers.written import Arguments

PROJECTIONS = {"whole": 0, "p16": 16, "ekfac": 0}


class Loaded(Contender):
    version = version("bergson")
    runs = tuple(PROJECTIONS)
    settings = (1024, 2048)  # tokens a batch, pads included

    def __init__(self, given: Given, scratch: Path) -> None:
        self.session = prepare(Arguments(given.path, scratch, given.checkpoints[-1], ()))
        config = self._config("p16", max(self.settings))
        self.model, self.modules = setup_model_and_peft(config)
        rows, _ = setup_data_pipeline(config)
        self.rows = {few: rows.select(share(range(len(rows)), few)) for few in (False, True)}

    def _config(self, name: str, tokens: int) -> IndexConfig:
        config = self.session.config("index", projection_dim=PROJECTIONS[name], precision="fp32")
        config.token_batch_size = tokens
        return config

    def run(self, name: str, setting: int, few: bool) -> dict[str, float]:
        config = self._config(name, setting)
        shutil.rmtree(config.partial_run_path, ignore_errors=True)
        config.partial_run_path.mkdir()
        return {"index": seconds(lambda: self._work(name, config, few))}

    def _work(self, name: str, config: IndexConfig, few: bool) -> None:
        if name == "ekfac":
            self._fit(config, few)
        self._build(config, few)

    def _fit(self, config: IndexConfig, few: bool) -> None:
        rows = self.rows[few]
        fit_factored_hessians(
            model=self.model,
            data=rows,
            index_cfg=config,
            hessian_cfg=HessianConfig("kfac", ev_correction=True),
            target_modules=self.modules,
            attention_cfgs={},
            batches=allocate_batches(rows["length"][:], config.token_batch_size),
            path=str(config.partial_run_path),
            do_eigendecomposition=True,
        )

    def _build(self, config: IndexConfig, few: bool) -> None:
        rows = self.rows[few]
        collect_gradients(
            model=self.model,
            data=rows,
            processor=create_processor(self.model, config, self.modules),
            cfg=config,
            batches=allocate_batches(rows["length"][:], config.token_batch_size),
            target_modules=self.modules,
            preprocess_cfg=PreprocessConfig(),
        )
