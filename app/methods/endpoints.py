"""/v1/methods"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from app.dependencies import ServicesDep
from app.pagination import Page

router = APIRouter(prefix="/v1/methods", tags=["methods"])


class MethodOut(BaseModel):
    """`options` is the JSON schema of the method's own options."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str
    description: str
    signed: bool
    additive: bool
    needs: list[str]
    cost: str
    options: dict[str, Any]
    source: str


@router.get("", operation_id="list_methods", summary="The methods, their options, needs and cost")
def list_methods(services: ServicesDep) -> Page[MethodOut]:
    return Page(data=[MethodOut.model_validate(spec) for spec in services.engine.methods()])
