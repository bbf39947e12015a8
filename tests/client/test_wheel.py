"""The client is a small wheel of its own."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import whence_client

PACKAGE = Path(whence_client.__file__).parent
ALLOWED = {"httpx", "pydantic", "whence_client"}


def test_it_imports_only_httpx_and_pydantic():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            foreign = {n.split(".")[0] for n in names} - ALLOWED - set(sys.stdlib_module_names)
            assert not foreign, f"{file.name} imports {foreign}"


def test_it_builds_as_a_wheel_of_its_own(tmp_path):
    source = tmp_path / "source"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    command = [
        sys.executable,
        "-c",
        "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])",
    ]
    subprocess.run([*command, str(tmp_path)], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("whence_client-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(n for n in names if n.endswith("METADATA"))).decode()
    shipped = {n for n in names if ".dist-info/" not in n}
    assert shipped == {f"whence_client/{f.relative_to(PACKAGE)}" for f in PACKAGE.rglob("*.py")} | {
        "whence_client/py.typed"
    }
    required = {
        line.split()[1].split(">")[0].split("<")[0]
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist")
    }
    assert required == {"httpx", "pydantic"}
