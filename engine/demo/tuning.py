"""How the demonstration fine-tunes: its base model, and what training does."""

from __future__ import annotations

from pathlib import Path

from engine.config import Lora, Training

BASE_MODEL = Path(__file__).parent / "base"


def fine_tuning() -> Training:
    return Training(learning_rate=3e-3, epochs=5, batch_size=3, seed=0, lora=Lora(rank=4, alpha=16))
