"""Settings come from WHENCE_*, and say what they mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_each_setting_says_what_it_means() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_everything_lies_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHENCE_HOME", str(tmp_path))
    settings = Settings()
    assert settings.database == f"sqlite:///{tmp_path}/whence.sqlite3"
    assert settings.roots == (tmp_path / "models",)
    for directory in (settings.datasets_dir, settings.indexes_dir, settings.uploads_dir):
        assert directory.parent == tmp_path


def test_home_is_absolute_and_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Settings(home=Path("~/here")).home == tmp_path / "here"
    assert Settings().home == tmp_path / ".local/share/whence"
    monkeypatch.chdir(tmp_path)
    assert Settings(home=Path("here")).home == tmp_path / "here"


def test_roots_are_separated_like_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WHENCE_MODEL_ROOTS", f"{tmp_path}/a:{tmp_path}/b")
    assert Settings().roots == (tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("db", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert Settings(host=host).is_loopback is loopback


def test_serving_on_loopback_adds_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert tmp_path in Settings().for_serving().roots
    assert tmp_path not in Settings(host="0.0.0.0").for_serving().roots
    assert Settings(model_roots=(tmp_path / "only",)).for_serving().roots == (tmp_path / "only",)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_a_postgresql_url_needs_no_driver(scheme: str) -> None:
    settings = Settings(database_url=f"{scheme}://u@h/d")
    assert settings.database == "postgresql+psycopg://u@h/d"
    assert not settings.is_sqlite


@pytest.mark.parametrize(("name", "value"), [("PORT", "70000"), ("MAX_QUEUE", "0"), ("LOG_FORMAT", "xml")])
def test_a_setting_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"WHENCE_{name}", value)
    with pytest.raises(ValidationError):
        Settings()


def test_a_lease_must_outlive_its_beats() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Settings(lease_seconds=15, beat_seconds=10)
