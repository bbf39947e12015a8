"""Whence's attribution engine: tensors and files, never HTTP, SQL or `app`.

Read `engine/pipeline.py` first. This package imports nothing heavy by itself, so the API
can use `engine.types`, `engine.config`, `engine.errors` and `engine.dataset` without torch.
"""

import logging
import os

# Models are local directories, whatever their files name: nothing here asks the Hugging Face Hub for anything.
os.environ["HF_HUB_OFFLINE"] = "1"
# Wherever it is installed, importing peft imports it, and it then warns of an optional kernel nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
