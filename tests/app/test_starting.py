"""What is imported before it is needed, and the commands that are listed without being imported."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer

from app import cli
from app.commands.lazily import COMMANDS, load

# Not one of them is needed to import the service; the engine, the migrations and the rows come with their first use.
HEAVY = (
    "accelerate alembic bm25s faiss faker numpy opentelemetry.exporter pandas peft psycopg pyarrow safetensors scipy "
    "sklearn torch transformers uvicorn"
).split()
# Nor these to print a list of commands.
SERVICE = [
    *"app.database app.errors app.main app.settings engine fastapi httpx pydantic sqlalchemy whence_client".split(),
    *"app.commands.console app.commands.serve opentelemetry prometheus_client starlette structlog".split(),
]


def imported(code: str) -> set[str]:
    """The modules there are in a process that has run `code`."""
    program = f"{code}\nimport sys\nprint('|'.join(sys.modules), file=sys.stderr)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(ran.stderr.strip().splitlines()[-1].split("|"))


def test_importing_the_service_imports_nothing_heavy():
    assert imported("import app.main").isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"]])
def test_the_list_of_commands_imports_no_command(arguments: list[str]):
    found = imported(f"import app.cli\napp.cli.main({arguments})")
    assert found.isdisjoint([*HEAVY, *SERVICE])


def test_a_command_imports_its_own_needs():
    assert imported("import app.cli\napp.cli.main(['model', '--help'])").isdisjoint(HEAVY)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_of_a_command_what_it_says_of_itself(name: str):
    itself = load(name)
    assert (itself.name, itself.help, itself.hidden, itself.deprecated) == (name, COMMANDS[name].help, False, False)


def test_no_module_of_commands_is_left_out():
    """Each module that defines a group of commands is in the list."""
    from pathlib import Path

    modules = {path.stem for path in Path(cli.__file__).with_name("commands").glob("*.py")}
    groups = {name for name in modules if hasattr(__import__(f"app.commands.{name}", fromlist=["app"]), "app")}
    assert groups == {place.where.partition(":")[0] for place in COMMANDS.values() if place.where.endswith(":app")}


def test_completion_goes_through_commands_not_yet_imported():
    whence: Any = typer.main.get_command(cli.app)
    with whence.make_context("whence", ["index"], resilient_parsing=True) as context:
        assert [item.value for item in whence.shell_complete(context, "ind")] == ["index"]
        name, index, rest = whence.resolve_command(context, ["index", "show"])
        assert (name, rest) == ("index", ["show"])
        with index.make_context("index", ["show"], parent=context, resilient_parsing=True) as inner:
            assert {"build", "list", "show"} <= {item.value for item in index.shell_complete(inner, "")}
