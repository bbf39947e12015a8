"""The frame: layout, sizes, pins, and a base install that needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS: dict[str, list[str]] = PYPROJECT["project"]["optional-dependencies"]
PACKAGES = ("app", "engine", "whence_client", "migrations")
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".html", ".css", ".js", ".mako", ".ini", ".json", ""}


def tracked_files() -> list[Path]:
    """Every file git tracks or would track; a source archive without git has nothing else lying about."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listing.returncode:
        return [path for top in (*PACKAGES, "tests", "benchmarks", "docs") for path in (ROOT / top).rglob("*.*")]
    return [path for line in listing.stdout.splitlines() if (path := ROOT / line).is_file()]


FILES = tracked_files()
PYTHON_FILES = [path for path in FILES if path.suffix == ".py"]
TEXT_FILES = [path for path in FILES if path.suffix in TEXT_SUFFIXES]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parts = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in parts}


def requirements() -> list[Requirement]:
    listed = [*PYPROJECT["project"]["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    listed += PYPROJECT["build-system"]["requires"]
    return [requirement for line in listed if (requirement := Requirement(line)).name != "whence"]


def test_no_python_file_is_longer_than_400_lines() -> None:
    long = {name(path): count for path in PYTHON_FILES if (count := len(path.read_text().splitlines())) > 400}
    assert not long


def test_no_function_is_longer_than_40_lines() -> None:
    long = {}
    for path in PYTHON_FILES:
        if path.relative_to(ROOT).parts[0] not in ("app", "engine", "whence_client"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > 40:
                long[f"{name(path)}:{node.lineno} {node.name}"] = code_lines(node)
    assert not long


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body: neither its docstring nor its signature (a command's options) make it long."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_file_is_called_utils() -> None:
    assert not [name(path) for path in FILES if path.stem in {"utils", "util", "helpers", "misc", "common"}]


@pytest.mark.parametrize("word", ["TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error", "x" + "fail"])
def test_no_python_file_leaves_work_undone(word: str) -> None:
    assert not [name(path) for path in PYTHON_FILES if re.search(rf"\b{word}\b", path.read_text())]


def test_no_file_names_a_path_of_one_machine() -> None:
    pattern = re.compile(r"(?<![\w.{}$/])/(?:work|root|opt|Users|home/[a-z]+)/" + r"[\w.]")
    hits = [
        f"{name(path)}:{number}"
        for path in TEXT_FILES
        if path.name != "LICENSE"
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line) and path != Path(__file__)
    ]
    assert not hits


def test_every_requirement_is_pinned_to_a_version_it_admits() -> None:
    pinned = pins()
    wrong = [
        str(requirement)
        for requirement in requirements()
        if not requirement.specifier.contains(pinned.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert not wrong


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins()
    found = distributions(path=[sysconfig.get_path("purelib")])
    installed = {canonicalize_name(each.metadata["Name"]): each.version.split("+")[0] for each in found}
    differing = {package: (version, pinned[package]) for package, version in installed.items() if package in pinned}
    assert {package: pair for package, pair in differing.items() if pair[0] != pair[1]} == {}


def test_gpu_and_engine_differ_in_faiss_alone() -> None:
    assert {Requirement(line).name for line in EXTRAS["engine"]} == {"whence", "faiss-cpu"}
    assert {Requirement(line).name for line in EXTRAS["gpu"]} == {"whence", "faiss-gpu"}


def test_every_folder_with_code_is_packaged() -> None:
    include = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    packaged = set(find_namespace_packages(str(ROOT), include=include))
    folders = {name(path.parent).replace("/", ".") for path in PYTHON_FILES if name(path).split("/")[0] in PACKAGES}
    assert folders
    assert folders <= packaged


def test_every_data_file_is_packaged() -> None:
    data: dict[str, list[str]] = PYPROJECT["tool"]["setuptools"]["package-data"]
    shipped = {
        path
        for package, patterns in data.items()
        for folder in ([ROOT / top for top in PACKAGES] if package == "*" else [ROOT / package.replace(".", "/")])
        for pattern in patterns
        for path in folder.glob(pattern)
    }
    build_files = {ROOT / "whence_client" / "pyproject.toml", ROOT / "whence_client" / "README.md"}
    others = {path for path in FILES if name(path).split("/")[0] in PACKAGES and path.suffix != ".py"}
    assert sorted(map(name, others - build_files - shipped)) == []


def test_every_package_folder_has_an_init() -> None:
    folders = {path.parent for path in PYTHON_FILES if name(path).split("/")[0] in ("app", "engine", "whence_client")}
    assert [name(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


WITHOUT_TENSORS = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked by the test)", name=name)

sys.meta_path.insert(0, Blocker())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    sys.exit("the blocker does not block")

import httpx
import asyncio
from app.main import create_app

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1") as client:
            for path in ("/livez", "/v1/methods"):
                response = await client.get(path)
                print(path, response.status_code)

asyncio.run(main())
"""


def test_base_install_serves_without_torch_subprocess(tmp_path: Path) -> None:
    modules = {"faiss", "sklearn", *(Requirement(line).name for line in EXTRAS["tensors"])}
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORS.format(blocked=modules)],
        cwd=ROOT,
        env={"WHENCE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert "/livez 200" in result.stdout
    assert "/v1/methods 200" in result.stdout
