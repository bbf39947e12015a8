"""Every way the engine can refuse, with its cause and its remedy.

EngineError
├── InputError                    the caller can mend it
│   ├── ModelError
│   │   ├── ModelPathNotFound     no such directory
│   │   ├── NotAModel             a directory, but no config.json / safetensors / tokenizer in it
│   │   ├── UnsafeWeights         weights in pickle form
│   │   ├── AdapterBaseMismatch   adapter tuned on another base
│   │   ├── UnsupportedModel      architecture, quantisation or adapter kind not handled
│   │   └── LowCoverage           most trained parameters cannot be tracked; names them
│   ├── DatasetError
│   │   ├── DatasetPathNotFound   no such file
│   │   ├── UnsupportedFormat     not JSONL, JSON, CSV or Parquet
│   │   ├── EmptyDataset          no rows
│   │   ├── MalformedRow          names the line
│   │   ├── DatasetTooLarge       more rows or bytes than may be stored, or than can be unpacked
│   │   ├── DuplicateExampleId    names both rows
│   │   └── EmptyCompletion       names the row
│   ├── NoLossToken               a row (or query) with no target to predict
│   ├── ContextOverflow           a query longer than the model's context
│   ├── InvalidQuery              a query that is not well formed (span, contrast, …)
│   ├── UnknownMethod             names the nearest method
│   ├── InvalidOption             unknown option (names the nearest) or a value out of range
│   ├── MissingNeed               the method needs checkpoints, Adam state, a recipe, …
│   └── MethodNotServed           this index cannot serve that method; lists those it can
├── FingerprintMismatch           index and model (tokenizer, template, projection, dataset) differ
├── NonFiniteGradient             NaN or Inf in a gradient
├── IndexUnavailable              not built, or not complete, on disk
├── CorruptIndex                  a checksum failed; names the file
├── CorruptDataset                stored rows cannot be read any more; names the file
├── StorageFull                   the disk is full; what was finished is kept
├── QueueFull                     the bounded lane is full; retry after `retry_after_s`
├── EngineUnavailable             the `engine` extra (torch, …) is not installed
└── Cancelled                     the caller's checkpoint() asked to stop
    └── ShuttingDown              the engine is being closed; nothing is wrong with the request
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Base of all engine errors. `code` names the problem type, `remedy` says what to do."""

    code: ClassVar[str] = "engine-error"
    title: ClassVar[str] = "Engine error"
    remedy: str = "See the server's log for this request id."

    def __init__(
        self, detail: str, *, remedy: str | None = None, pointer: str | None = None, **context: object
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy or type(self).remedy
        self.pointer = pointer  # JSON pointer into the request, when one is to blame
        self.context = context  # machine-readable facts (line, row ids, …); JSON-able


class InputError(EngineError):
    code, title = "invalid-input", "Invalid input"
    remedy = "Correct the request and send it again."


class ModelError(InputError):
    code, title = "model-error", "Model cannot be used"


class ModelPathNotFound(ModelError):
    code, title = "model-path-not-found", "Model path not found"
    remedy = "Give the path of an existing local directory."


class NotAModel(ModelError):
    code, title = "not-a-model", "Not a model directory"
    remedy = (
        "Point to a Hugging Face directory: config.json, *.safetensors and tokenizer files "
        "(adapters: adapter_config.json)."
    )


class UnsafeWeights(ModelError):
    code, title = "unsafe-weights", "Weights are in pickle form"
    remedy = "Convert the weights to safetensors: model.save_pretrained(path, safe_serialization=True)."


class AdapterBaseMismatch(ModelError):
    code, title = "adapter-base-mismatch", "Adapter does not fit this base"
    remedy = "Register the adapter with the base model it was tuned on."


class UnsupportedModel(ModelError):
    code, title = "unsupported-model", "Model not supported"
    remedy = "Use a causal language model with Linear or Conv1D layers, or a LoRA adapter on one."


class LowCoverage(ModelError):
    code, title = "low-coverage", "Too few trained parameters can be tracked"
    remedy = "Set the option allow_partial to true for an index of the tracked part alone, or take another method."


class DatasetError(InputError):
    code, title = "dataset-error", "Dataset cannot be used"


class DatasetPathNotFound(DatasetError):
    code, title = "dataset-path-not-found", "Dataset path not found"
    remedy = "Give the path of an existing local file."


class UnsupportedFormat(DatasetError):
    code, title = "unsupported-format", "Dataset format not supported"
    remedy = "Use JSONL, JSON (a list of rows), CSV or Parquet."


class EmptyDataset(DatasetError):
    code, title = "empty-dataset", "Dataset has no rows"
    remedy = "Send at least one row with prompt+completion, messages or text."


class MalformedRow(DatasetError):
    code, title = "malformed-row", "Malformed row"
    remedy = "Each row is an object with prompt+completion, messages or text (and optionally id, tags, label)."


class DatasetTooLarge(DatasetError):
    code, title = "dataset-too-large", "Dataset too large"
    remedy = "Send fewer or shorter rows; GET /v1/limits shows the limits."


class DuplicateExampleId(DatasetError):
    code, title = "duplicate-example-id", "Duplicate example id"
    remedy = "Make the ids unique, or leave them out: rows are then named row-<position>."


class EmptyCompletion(DatasetError):
    code, title = "empty-completion", "Empty completion"
    remedy = "Give a completion of at least one character: its tokens are what is being explained."


class NoLossToken(InputError):
    code, title = "no-loss-token", "No token to predict"
    remedy = "Remove the row, or raise max_length so that at least one completion token is kept."


class ContextOverflow(InputError):
    code, title = "context-overflow", "Longer than the model's context"
    remedy = "Shorten the prompt or the completion: a query is never truncated silently."


class InvalidQuery(InputError):
    code, title = "invalid-query", "Invalid query"


class UnknownMethod(InputError):
    code, title = "unknown-method", "Unknown method"
    remedy = "See `whence methods` or GET /v1/methods."


class InvalidOption(InputError):
    code, title = "invalid-option", "Invalid option"
    remedy = "See `whence methods` or GET /v1/methods for each method's options."


class MissingNeed(InputError):
    code, title = "missing-need", "The method needs something this model lacks"


class MethodNotServed(InputError):
    code, title = "method-not-served", "This index cannot serve that method"
    remedy = "Ask with one of the listed methods, or build an index for the other one."


class FingerprintMismatch(EngineError):
    code, title = "fingerprint-mismatch", "Index and model differ"
    remedy = "Rebuild the index for this model, or ask the model it was built from; nothing was recomputed."


class NonFiniteGradient(EngineError):
    code, title = "non-finite-gradient", "NaN or infinity in a gradient"
    remedy = "Check the weights for NaN, or load the model in float32 (dtype: float32)."


class IndexUnavailable(EngineError):
    code, title = "index-unavailable", "Index not available"
    remedy = "Wait for the build to finish, or build the index."


class CorruptIndex(EngineError):
    code, title = "corrupt-index", "Index file damaged"
    remedy = "Build the index again; while its build job is unfinished, resume that job: whole files are kept."


class CorruptDataset(EngineError):
    code, title = "corrupt-dataset", "Stored rows damaged"
    remedy = "Restore that file from a backup; or run `whence doctor --repair`, then upload the same rows again."


class StorageFull(EngineError):
    code, title = "storage-full", "Disk full"
    remedy = "Free space under WHENCE_HOME, then resume the job: finished shards are kept."


class QueueFull(EngineError):
    code, title = "queue-full", "Too many queries waiting"
    remedy = "Retry after the stated time."

    def __init__(self, detail: str, *, retry_after_s: float = 1.0, **kwargs: object) -> None:
        super().__init__(detail, **kwargs)  # type: ignore[arg-type]
        self.retry_after_s = retry_after_s


class EngineUnavailable(EngineError):
    code, title = "engine-unavailable", "Engine not installed"
    remedy = "Install the engine: pip install 'whence[engine]' -c constraints.txt."


class Cancelled(EngineError):
    code, title = "cancelled", "Cancelled"
    remedy = "Resume the job to go on from what it had finished."


class ShuttingDown(Cancelled):
    code, title = "shutting-down", "Server is stopping"
    remedy = "Send the request again in a moment: another server, or this one restarted, answers it."

    def __init__(self, detail: str = "The engine is shutting down.", **kwargs: object) -> None:
        super().__init__(detail, **kwargs)  # type: ignore[arg-type]
