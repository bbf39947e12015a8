"""The commands without a server, and `whence serve`: what they print, how they end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from typer.core import TyperGroup

from app import cli
from app.commands.console import clean, size
from app.commands.lazily import COMMANDS, load
from app.commands.options import own_address
from app.settings import Settings
from tests.app.commands import refused, run_json
from whence_client.settings import DEFAULT_URL


def test_methods_need_no_server(capsys):
    assert {"ekfac", "bm25"} <= {method["name"] for method in run_json(capsys, "methods")}
    assert cli.main(["methods", "ekfac"]) == 0
    assert "damping=" in capsys.readouterr().out


def test_an_unknown_method_names_the_nearest(capsys):
    assert "'ekfac'" in refused(capsys, "methods", "ekfak", code=2)


@pytest.mark.parametrize(
    "arguments", [["nosuch"], ["index", "build"], ["jobs", "show"], ["model", "list", "--limit", "0"]]
)
def test_bad_usage_is_code_2(arguments, capsys):
    refused(capsys, *arguments, code=2)


def test_no_arguments_show_the_help(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert "serve" in captured.out
    assert captured.err == ""


def test_every_command_takes_json():
    """The demo alone is a tour for people."""

    def commands(found: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(found, TyperGroup):
            for command in found.commands.values():
                yield from commands(command)
        else:
            yield found.name, {parameter.name for parameter in found.params}

    found = [each for name in COMMANDS for each in commands(load(name))]
    assert [name for name, options in found if "json_" not in options] == ["demo"]


def test_an_unexpected_error_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("app.commands.methods.method_specs", lambda: 1 / 0)
    line = refused(capsys, "methods", code=1)
    assert "ZeroDivisionError" in line
    assert "WHENCE_TRACEBACK" in line


def test_a_bad_setting_is_named(capsys, monkeypatch):
    monkeypatch.setenv("WHENCE_MAX_QUEUE", "many")
    assert "WHENCE_MAX_QUEUE" in refused(capsys, "migrate", code=2)


def test_migrate_says_where_the_database_is(tmp_path, capsys):
    home = tmp_path / "home"
    assert run_json(capsys, "migrate", "--home", str(home))["before"] is None
    again = run_json(capsys, "migrate", "--home", str(home))
    assert again["before"] == again["after"]


def test_printed_training_text_cannot_control_the_terminal():
    assert clean("\x1b[31m[red]x\x9b\n").plain == "�[31m[red]x�\n"


@pytest.mark.parametrize(("value", "shown"), [(0, "0 B"), (1536, "1.5 KB"), (2_000_000, "2.0 MB"), (None, "")])
def test_sizes_are_readable(value, shown):
    assert size(value) == shown


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "http://127.0.0.1:9"), ("0.0.0.0", "http://127.0.0.1:9"), ("::1", "http://[::1]:9")],
)
def test_commands_look_where_serve_would_listen(host, address):
    assert own_address(Settings(host=host, port=9)) == address


def test_the_client_looks_where_the_server_listens_by_default():
    assert own_address(Settings()) == DEFAULT_URL


def test_leaving_loopback_takes_a_key(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("WHENCE_HOME", str(tmp_path))
    line = refused(capsys, "serve", "--host", "0.0.0.0", code=2)
    assert "whence keys create" in line
    assert "anyone who can reach" in line
    run_json(capsys, "keys", "create", "first")
    with socket.socket() as taken:  # with a key it gets as far as listening
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "taken" in refused(capsys, "serve", "--host", "0.0.0.0", "--port", port, code=1)


def test_a_taken_port_is_refused_in_words(tmp_path, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        line = refused(capsys, "serve", "--home", str(tmp_path), "--port", port, code=1)
    assert f"Port {port}" in line
    assert "--port" in line


def test_serve_answers_and_ctrl_c_ends_it_while_a_second_one_is_refused(tmp_path):
    command = [sys.executable, "-m", "app.cli", "serve", "--home", str(tmp_path / "home"), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            listed = subprocess.run(
                [sys.executable, "-m", "app.cli", "model", "list", "--json", "--url", told["url"]],
                capture_output=True,
                text=True,
            )
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        finally:
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert json.loads(listed.stdout)["data"] == []
    assert second.returncode == 1
    assert f"in use by another whence server (process {process.pid})" in second.stderr
    assert second.stderr.count("\n") == 1
    assert process.returncode == 130
    assert "Traceback" not in errors
