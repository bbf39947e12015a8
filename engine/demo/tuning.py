"""How the demonstration fine-tunes: its base model, and what training does."""

from __future__ import annotations

from pathlib import Path

from engine.causal.train import TrainConfig

BASE_MODEL = Path(__file__).parent / "base"


def fine_tuning() -> TrainConfig:
    return TrainConfig(learning_rate=3e-3, epochs=5, batch_size=3, rank=4, alpha=16, seed=0)
