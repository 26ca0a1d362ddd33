"""Pinned packages."""

from __future__ import annotations

import base64

from mudit.packages import SETS
from mudit.provenance import source


def test_pins_are_whole() -> None:
    for package in SETS["emoji"]:
        assert len(base64.b64decode(package.integrity.removeprefix("sha512-"))) == 64
        assert package.version.count(".") == 2


def test_a_store_depends_on_the_pins_and_not_on_how_npm_is_called() -> None:
    closure = source.closure("mudit.data.stage")
    assert "mudit.packages" in closure
    assert not closure.keys() & {"mudit.fetch", "mudit.files", "mudit.data.rounds"}
