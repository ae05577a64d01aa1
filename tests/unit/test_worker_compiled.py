"""Compiled modules are kept only where there is room: what a full disk cuts short would fail every later import."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mer_worker.compiled import spare_the_disk

MORE_THAN_ANY_DISK = 1 << 70


@pytest.mark.parametrize(
    ("room", "within", "kept"),
    [
        (0, ".", True),
        (MORE_THAN_ANY_DISK, ".", False),
        (MORE_THAN_ANY_DISK, "not made yet", True),
        (MORE_THAN_ANY_DISK, None, True),
    ],
)
def test_without_room_none_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, within: str | None, kept: bool
):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    monkeypatch.setattr(sys, "pycache_prefix", within and str(tmp_path / within))
    spare_the_disk(room)
    assert sys.dont_write_bytecode is not kept
