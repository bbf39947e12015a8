"""One file a class of attack; docs/security.md lists them all, with those that are tested elsewhere."""

from __future__ import annotations

import pytest

from tests.app.conftest import (  # noqa: F401 - fixtures
    app,
    client,
    engine,
    model_dir,
    postgres_server,
    postgres_url,
    services,
    settings,
)


@pytest.fixture
def store() -> str:
    """SQLite: only test_sql_injection.py has to do with the kind of database."""
    return ""
