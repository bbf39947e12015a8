"""docs/operations.md and docker/alerts.yml name commands, options, settings and routes that exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from app.cli import app as commands
from app.cli import main
from app.database import Database
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import make_settings
from tests.app.fakes import FakeEngine

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("docs/operations.md", "docs/security.md", "docs/observability.md")
TEXT = "\n".join((ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS)
RULES = [
    rule for group in yaml.safe_load((ROOT / "docker/alerts.yml").read_text())["groups"] for rule in group["rules"]
]
ACTIONS = "\n".join(rule["annotations"]["action"] for rule in RULES)


def lines() -> Iterator[str]:
    """Of code blocks, and code within sentences."""
    yield from (line.strip().removeprefix("$ ") for line in TEXT.splitlines() if line.startswith("    "))
    yield from re.findall(r"`([^`\n]+)`", TEXT + ACTIONS)


def whence_lines() -> list[str]:
    single = (part.strip() for line in lines() for part in line.split("&&"))
    found = (re.sub(r"^(?:(?:export )?[A-Z_]+=\S+ )+", "", line).partition("#")[0].strip() for line in single)
    bare = (re.sub(r"^export \w+=\$\((.*)\)$", r"\1", re.sub(r"^\S*/bin/", "", line)) for line in found)
    return sorted({line for line in bare if re.match(r"whence\s+[a-z]", line)})


def parsed(line: Sequence[str]) -> None:
    """Raises the command's own usage errors: no such command, option or place for an argument."""
    command: Any = typer.main.get_command(commands)
    words = list(line)
    context = command.make_context("whence", [words[0]], resilient_parsing=True)
    while hasattr(command, "get_command"):
        if not words:
            return  # a group: `whence keys`
        name, *words = words
        found = command.resolve_command(context, [name])[1]
        assert found is not None, f"there is no command {name!r}"
        command, context = found, type(context)(found, parent=context, info_name=name)
    options, rest, _ = command.make_parser(context).parse_args(list(words))
    assert not rest, f"no place for {rest}"
    for parameter in command.params:
        assert not parameter.required or options.get(parameter.name) is not None, f"{parameter.name} is missing"


@pytest.mark.parametrize("line", whence_lines())
def test_a_command_and_its_options_exist(line: str) -> None:
    words = [word for word in shlex.split(line.replace("…", ""))[1:] if word not in ("|", "&")]
    parsed(words)


def test_there_are_such_lines_and_wrong_ones_are_found() -> None:
    assert len(whence_lines()) > 15
    for wrong in ("keys make x", "keys create", "keys create a b", "serve --hots x", "jobs list --state failed"):
        with pytest.raises(Exception, match=r"[Nn]o such command|missing|no place|[Nn]o such option"):
            parsed(wrong.split())


def test_targets_of_make_and_modules_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in {found for line in lines() for found in re.findall(r"^make ([a-z-]+)", line)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in {found for line in lines() for found in re.findall(r"python -m ([\w.]+)", line)}:
        assert importlib.util.find_spec(module), module
    for path in set(re.findall(r"`((?:app|engine|tests|docker|benchmarks|docs)/[\w./-]+)`", TEXT)):
        assert (ROOT / path).exists(), path


def test_settings_routes_and_extras_exist(tmp_path: Path) -> None:
    known = {f"WHENCE_{name.upper()}" for name in Settings.model_fields}
    known |= {"WHENCE_API_KEY", "WHENCE_URL", "WHENCE_TRACEBACK", "WHENCE_METRICS_KEY", "WHENCE_MODELS"}
    assert set(re.findall(r"\bWHENCE_[A-Z_]+[A-Z]", TEXT + ACTIONS)) <= known
    routes = {
        (method.upper(), path)
        for path, methods in create_app(make_settings(tmp_path), FakeEngine()).openapi()["paths"].items()
        for method in methods
    }
    for method, path in re.findall(r"\b(GET|POST|PUT|PATCH|DELETE) (/[a-z][\w/{}.-]*)", TEXT + ACTIONS):
        assert (method, path.rstrip(".")) in routes, (method, path)
    extras = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"`\[(\w+)\]`", TEXT):
        assert re.search(rf"^{extra} = \[", extras, re.MULTILINE), extra


@pytest.fixture
def newer(tmp_path: Path) -> Settings:
    """A home whose database a later version has migrated."""
    settings = make_settings(tmp_path)
    assert main(["migrate", "--home", str(settings.home)]) == 0
    database = Database(settings.database)
    with database.write_engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    return settings


@pytest.mark.parametrize("command", [["migrate"], ["serve", "--port", "0"]])
def test_an_older_version_refuses_newer_tables_by_name(
    newer: Settings, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--home", str(newer.home)]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "a later version of Whence" in told and "whence restore" in told
    assert "Traceback" not in told and "Unexpected" not in told
