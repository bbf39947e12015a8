"""What the files of a model directory may ask of the libraries that load it.

Transformers and PEFT do what these files say: open other files, unpickle, download a kernel. So what they say is read
first, and a directory that asks for anything but its own safetensors is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from engine.errors import NotAModel, UnsafeWeights, UnsupportedModel

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_CONFIG = "tokenizer_config.json"
_NAMED_WEIGHTS = "transformers_weights"  # config.json: load this file instead
_IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")


def read_config(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in path/name; NotAModel when it is missing or broken."""
    try:
        config = json.loads((path / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotAModel(f"{path} holds no {name}.") from None
    except (OSError, ValueError) as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise NotAModel(f"{path / name} cannot be read as JSON: {error}.") from None
    except RecursionError:
        raise NotAModel(f"{path / name} cannot be read as JSON: it is nested too deeply.") from None
    if not isinstance(config, dict):
        raise NotAModel(f"{path / name} is not a JSON object.")
    return config


def check_model_files(path: Path, config: dict[str, Any], *, adapter: bool) -> None:
    """config: of config.json or adapter_config.json. Raises UnsupportedModel, UnsafeWeights, NotAModel."""
    if "auto_map" in config:
        raise UnsupportedModel(
            f"{path} asks to run its own Python code (auto_map).",
            remedy="Use an architecture that transformers ships: code from model directories is never run.",
        )
    for key, value in _walk(config):
        if key.endswith(_IMPLEMENTATIONS) and "/" in json.dumps(value):
            raise UnsupportedModel(
                f"{path} asks for code from the Hugging Face Hub ({key}).",
                remedy=f"Remove {key} from its config.json: nothing is downloaded, and no foreign code is run.",
            )
    _check_weights(path, None if adapter else config.get(_NAMED_WEIGHTS), adapter)
    check_tokenizer_files(path)


def check_tokenizer_files(path: Path) -> None:
    """Raises UnsupportedModel: a tokenizer that lies elsewhere."""
    if (path / TOKENIZER_CONFIG).exists():
        names = read_config(path, TOKENIZER_CONFIG).get("fast_tokenizer_files") or []
        _require_own(path, TOKENIZER_CONFIG, names if isinstance(names, list) else [names])


def _check_weights(path: Path, named: object, adapter: bool) -> None:
    """One of the files that are loaded is there, and it leads to safetensors beside it alone."""
    if named is not None:
        _require_own(path, "config.json", [named])
        if not str(named).endswith((".safetensors", ".safetensors.index.json")):
            raise _pickled(path, str(named))
    found = [name for name in _loaded(named, adapter) if (path / name).is_file()]
    if not found:
        if pickled := sorted(file.name for pattern in PICKLES for file in path.glob(pattern)):
            raise _pickled(path, pickled[0])
        wanted = ADAPTER_WEIGHTS if adapter else "model.safetensors"
        raise NotAModel(f"{path} holds no *.safetensors weights ({wanted}).")
    for name in found:
        if name.endswith(".index.json"):
            _check_index(path, name)


def _loaded(named: object, adapter: bool) -> list[str]:
    if adapter:
        return [ADAPTER_WEIGHTS]
    return [str(named)] if named is not None else ["model.safetensors", INDEX]


def _check_index(path: Path, name: str) -> None:
    """Which file holds which weight."""
    places = read_config(path, name).get("weight_map")
    if not isinstance(places, dict):
        raise NotAModel(f"{path / name} has no weight_map.")
    _require_own(path, name, list(places.values()))
    if pickled := sorted(str(place) for place in places.values() if not str(place).endswith(".safetensors")):
        raise _pickled(path, pickled[0])


def _require_own(path: Path, said_by: str, names: list[object]) -> None:
    for name in names:
        if not isinstance(name, str) or PurePath(name).name != name or name == "..":
            raise UnsupportedModel(
                f"{path / said_by} names {str(name)[:200]!r}, which does not lie in this directory.",
                remedy="Put every file of the model into its own directory.",
            )


def _walk(value: object) -> Iterator[tuple[str, object]]:
    """Every key and what it has, however deep: a config may hold others."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _pickled(path: Path, name: str) -> UnsafeWeights:
    return UnsafeWeights(f"{path} holds its weights as {name}, which would have to be unpickled.")
