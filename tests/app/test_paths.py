"""Which paths a request may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import PathOutsideRoots
from app.paths import PathPolicy, UriSchemeNotAllowed
from engine.errors import DatasetPathNotFound, ModelPathNotFound


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "two", "one-too", "outside"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "rows.jsonl").write_text("{}")
    return tmp_path / "one", tmp_path / "two"


@pytest.fixture
def policy(roots: tuple[Path, Path]) -> PathPolicy:
    return PathPolicy(roots)


def test_paths_below_any_root_are_allowed(policy: PathPolicy, roots: tuple[Path, Path]) -> None:
    for root in roots:
        assert policy.directory(str(root / "model"), "/base") == str(root / "model")
        assert policy.file(str(root / "rows.jsonl"), "/uri") == root / "rows.jsonl"


def test_a_relative_path_is_looked_for_below_each_root(policy: PathPolicy, roots: tuple[Path, Path]) -> None:
    (roots[1] / "only-here").mkdir()
    assert policy.directory("model", "/base") == str(roots[0] / "model")
    assert policy.directory("only-here", "/base") == str(roots[1] / "only-here")


@pytest.mark.parametrize(
    "path",
    ["../outside/model", "{tmp}/outside/model", "{tmp}/one/../outside/model", "{tmp}/one-too/model", "/", "~", "/etc"],
)
def test_paths_outside_are_refused_whether_they_exist_or_not(policy: PathPolicy, tmp_path: Path, path: str) -> None:
    for tail in ("", "/does-not-exist"):
        with pytest.raises(PathOutsideRoots):
            policy.directory(path.format(tmp=tmp_path) + tail, "/base")


def test_a_symlink_is_judged_by_where_it_leads(policy: PathPolicy, roots: tuple[Path, Path], tmp_path: Path) -> None:
    (roots[0] / "out").symlink_to(tmp_path / "outside" / "model")
    (roots[0] / "in").symlink_to(roots[1] / "model")
    (roots[0] / "loop").symlink_to(roots[0] / "loop")
    with pytest.raises(PathOutsideRoots):
        policy.directory("out", "/base")
    assert policy.directory("in", "/base") == str(roots[1] / "model")
    with pytest.raises(ModelPathNotFound):
        policy.directory("loop", "/base")


def test_a_root_may_itself_be_a_symlink(roots: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(roots[0])
    policy = PathPolicy((tmp_path / "link",))
    assert policy.directory(str(tmp_path / "link" / "model"), "/base") == str(roots[0] / "model")


def test_a_file_is_no_directory_and_a_directory_no_file(policy: PathPolicy) -> None:
    with pytest.raises(ModelPathNotFound):
        policy.directory("rows.jsonl", "/base")
    with pytest.raises(DatasetPathNotFound):
        policy.file("model", "/uri")


@pytest.mark.parametrize("path", ["a\x00b", "x" * 5000, "model/" + "y" * 300])
def test_a_path_that_cannot_exist_is_not_found(policy: PathPolicy, path: str) -> None:
    with pytest.raises(ModelPathNotFound):
        policy.directory(path, "/base")


@pytest.mark.parametrize("uri", ["hf://org/name@main", "s3://bucket/x", "file:///etc/passwd", "mlflow:x", "HTTP://x"])
def test_uris_of_every_scheme_are_refused(policy: PathPolicy, uri: str) -> None:
    with pytest.raises(UriSchemeNotAllowed, match="URIs are not allowed"):
        policy.file(uri, "/uri")
