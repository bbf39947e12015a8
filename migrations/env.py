"""Run by Alembic with the connection and transaction that app.schema opened."""

from typing import Any

from alembic import context

from app.schema import COMPARE
from app.tables import Base
from app.tables.base import UtcDateTime


def render_item(kind: str, item: Any, _autogenerate_context: Any) -> str | bool:
    """Migrations keep their meaning when the code changes: they name SQL types, not ours."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(item, UtcDateTime) else False


context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters tables by rebuilding them
    render_item=render_item,
    transactional_ddl=False,  # app.schema's own transaction spans all steps, on SQLite too
    **COMPARE,
)
context.run_migrations()
