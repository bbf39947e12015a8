"""Models over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.bodies import JsonObject, Name, PathText, PlainText, RequestBody
from engine.config import DType, Reduction

Position = Annotated[int, Field(ge=0)]


class TemplateBody(RequestBody):
    """How rows became tokens in training. The defaults are what TRL's SFTTrainer does."""

    bos: Literal["auto", "always", "never"] = "auto"
    eos: bool = True
    assistant_turns: Literal["last", "all"] = "last"


class RecipeBody(RequestBody):
    """What training did, as far as scores depend on it. `details` keeps the rest for the record.

    `steps`: the dataset positions of every optimizer step; `batch_token_mean` needs them.
    """

    reduction: Reduction = "token_sum"
    template: TemplateBody = TemplateBody()
    max_length: int | None = Field(default=None, ge=1)
    steps: list[list[Position]] | None = None
    details: JsonObject = Field(default={})


class ModelCreate(RequestBody):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "support-bot",
                    "base": "llama-base",
                    "adapter": "support-bot/final",
                    "checkpoints": ["support-bot/epoch-1", "support-bot/epoch-2"],
                    "recipe": {"reduction": "example_mean", "details": {"optimizer": "adamw", "epochs": 2}},
                }
            ]
        }
    )

    name: Name = Field(description="The same name again makes the next version.")
    base: PathText = Field(description="Directory of the base model, or of a dense fine-tune.")
    adapter: PathText | None = Field(default=None, description="Directory of a PEFT adapter.")
    checkpoints: list[PathText] = Field(default=[], max_length=64, description="Oldest first.")
    tokenizer: PathText | None = Field(default=None, description="Directory of the tokenizer, when not the model's.")
    chat_template: PlainText | None = Field(
        default=None, description="A Jinja chat template, when not the tokenizer's."
    )
    recipe: RecipeBody | None = Field(default=None, description="Unknown: token-sum gradients, with a warning.")
    dtype: DType = "float32"
    quantization: Literal["8bit", "4bit"] | None = None


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
    created_at: datetime
