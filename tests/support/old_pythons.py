"""Roots of Debian releases, for the oldest Python that the worker promises and a new one: real interpreters, run by chroot."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian

SUITES = {"bullseye": (3, 9), "trixie": (3, 13)}
"""Debian's releases, and the Python that each has."""

PACKAGES = ("python3-minimal", "libpython3-stdlib")

KEPT = os.environ.get("MER_TEST_ROOTS")
"""A folder in which the roots stay for the next time, and need no network then."""


@contextlib.contextmanager
def root_of(suite: str, above: Path) -> Iterator[Path]:
    """Give the folder of such a root, below `above` where it is not kept; skips the test where it cannot be made."""
    if why := debian.missing():
        pytest.skip(why)
    folder = (Path(KEPT) if KEPT else above) / suite
    try:
        if not folder.exists():
            try:
                debian.make(suite, PACKAGES, folder)
            except subprocess.SubprocessError as error:
                said = getattr(error, "stderr", None) or b""
                pytest.skip(f"there is no Debian {suite}: {error} {said.decode()[-400:]}")
        yield folder
    finally:
        if not KEPT:
            shutil.rmtree(folder, ignore_errors=True)
