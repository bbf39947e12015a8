"""Models over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, field_validator

from app.amending import GIVEN, SHOWN, Metadata
from app.bodies import JsonObject, Name, PathText, PlainText, RequestBody
from engine.config import DType, Recipe, Reduction

_RECIPE = TypeAdapter(Recipe)
LARGEST = (1 << 31) - 1
MAX_CHECKPOINTS = 64
Position = Annotated[int, Field(ge=0)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
ModuleName = Annotated[PlainText, StringConstraints(min_length=1, max_length=1000)]


class TemplateBody(RequestBody):
    """How rows became tokens in training. The defaults are what TRL's SFTTrainer does."""

    bos: Literal["auto", "always", "never"] = "auto"
    eos: bool = True
    assistant_turns: Literal["last", "all"] = "last"


class LoraBody(RequestBody):
    """`targets`: PEFT's target_modules."""

    rank: int = Field(default=8, ge=1, le=LARGEST)
    alpha: float = Field(default=16.0, gt=0, allow_inf_nan=False)
    targets: ModuleName | list[ModuleName] = "all-linear"

    @field_validator("targets")
    @classmethod
    def _some(cls, value: str | list[str]) -> str | list[str]:
        if not value:
            raise ValueError("name at least one module")
        return value


class TrainingBody(RequestBody):
    """What the optimizer did. A step takes batch_size × accumulation rows; its loss is the step's token mean.

    `max_grad_norm` null: no clipping. `lora` null: every weight was trained.
    """

    optimizer: Annotated[PlainText, StringConstraints(min_length=1, max_length=100)] = "adamw"
    learning_rate: float = Field(default=5e-3, ge=0, allow_inf_nan=False)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    epochs: int = Field(default=5, ge=1, le=LARGEST)
    batch_size: int = Field(default=8, ge=1, le=LARGEST)
    accumulation: int = Field(default=1, ge=1, le=LARGEST)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, ge=0, allow_inf_nan=False)
    max_grad_norm: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    lora: LoraBody | None = LoraBody()


class RecipeBody(RequestBody):
    """What training did: as far as scores depend on it, and, in `training`, as far as doing it again needs it.

    `steps`: the dataset positions of every optimizer step; `batch_token_mean` needs them.
    `training` null: unknown. `details` keeps whatever else is on record.
    """

    reduction: Reduction = "token_sum"
    template: TemplateBody = TemplateBody()
    max_length: int | None = Field(default=None, ge=1)
    steps: list[list[Position]] | None = None
    training: TrainingBody | None = None
    details: JsonObject = Field(default={})

    def recipe(self) -> Recipe:
        """As the engine knows it."""
        return _RECIPE.validate_python(self.model_dump())


def first_cause(error: ValidationError) -> str:
    """One line of a refused recipe: the field and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


RECIPE = (
    "Absent: taken from a recipe.json or trainer_state.json beside the adapter or in the directory above it, and said "
    "so in `warnings`; else unknown: token-sum gradients, with a warning."
)


class ModelCreate(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "support-bot",
                    "base": "llama-base",
                    "adapter": "support-bot/final",
                    "checkpoints": ["support-bot/epoch-1", "support-bot/epoch-2"],
                    "recipe": {"reduction": "example_mean", "training": {"epochs": 2, "learning_rate": 0.001}},
                }
            ]
        }
    )

    name: Name = Field(description="The same name again makes the next version.")
    base: PathText = Field(description="Directory of the base model, or of a dense fine-tune.")
    adapter: PathText | None = Field(default=None, description="Directory of a PEFT adapter.")
    checkpoints: list[PathText] = Field(default=[], max_length=MAX_CHECKPOINTS, description="Oldest first.")
    tokenizer: PathText | None = Field(default=None, description="Directory of the tokenizer, when not the model's.")
    chat_template: PlainText | None = Field(
        default=None, description="A Jinja chat template, when not the tokenizer's."
    )
    recipe: RecipeBody | None = Field(default=None, description=RECIPE)
    dtype: DType = "float32"
    quantization: Literal["8bit", "4bit"] | None = None
    metadata: Metadata | None = GIVEN


class ModelOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    version: int
    base: str
    adapter: str | None
    checkpoints: list[str]
    tokenizer: str | None
    chat_template: str | None
    recipe: dict[str, Any] | None
    dtype: str
    quantization: str | None
    fingerprint: str
    parameters: int
    trained_parameters: int
    trained_modules: int
    context_length: int
    coverage: dict[str, Any]
    warnings: list[str]
    metadata: dict[str, Any] | None = SHOWN
    created_at: datetime
