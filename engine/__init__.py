"""Whence's attribution engine: tensors and files, never HTTP, SQL or `app`.

Read `engine/pipeline.py` first. This package imports nothing heavy by itself, so the API
can use `engine.types`, `engine.config`, `engine.errors` and `engine.dataset` without torch.
"""

import logging

# Wherever it is installed, importing peft imports it, and it then warns of an optional kernel nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
