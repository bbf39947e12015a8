"""The check of pinned packages finds what is not as pinned."""

from __future__ import annotations

from tests.contract.pins import CONSTRAINTS, differing, installed, normal, pinned


def test_what_is_installed_here_is_what_is_pinned() -> None:
    pins = pinned(CONSTRAINTS.read_text(encoding="utf-8"))
    assert len(pins) > 50 and pins["torch"]
    assert differing(installed(), pins) == []


def test_other_versions_and_unknown_packages_are_named() -> None:
    pins = pinned("# a comment\nSome_Package==1.2  # why\ntorch==2.13.0\n")
    assert pins == {"some-package": "1.2", "torch": "2.13.0"}
    assert differing({"some-package": "1.2", "torch": "2.13.0+cpu", "pip": "99"}, pins) == []
    wrong = differing({"some-package": "1.3", "other": "1"}, pins)
    assert wrong == [
        "other 1 is installed; constraints.txt has no such package",
        "some-package 1.3 is installed; constraints.txt has 1.2",
    ]
    assert normal("Ruamel.YAML_x") == "ruamel-yaml-x"
