"""Whence's attribution engine: tensors and files, never HTTP, SQL or `app`.

Read `engine/pipeline.py` first. This package imports nothing heavy by itself, so the API
can use `engine.types`, `engine.config`, `engine.errors` and `engine.dataset` without torch.
"""
