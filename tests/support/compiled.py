"""What workers import, compiled once for all tests of this process.

A worker keeps compiled modules below its host's cache folder, and reads none from anywhere else. With a new folder for each
test each worker would compile itself, numpy and the standard library anew: most of the time that it takes to start.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import mer_worker

FOLDER = "pycache"
"""Within a cache folder (mer.meal.local, mer_worker.stage0)."""

_IMPORTS = """
import importlib, pathlib, sys
sys.path += {path!r}
import numpy
for each in sorted(pathlib.Path({worker!r}).rglob("*.py")):
    name = ".".join(each.relative_to(pathlib.Path({worker!r}).parent).with_suffix("").parts)
    if not name.endswith(("__", "stage0", "torch_views")):
        importlib.import_module(name)
"""


@functools.cache
def cache() -> Path:
    """Return a cache folder that all tests of this process may share."""
    made = Path(tempfile.mkdtemp(prefix="mer-test-compiled-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    (made / FOLDER).mkdir(mode=0o700)
    worker = Path(mer_worker.__file__).parent
    program = _IMPORTS.format(path=[str(worker.parent), *sys.path[1:]], worker=str(worker))
    subprocess.run(
        [sys.executable, "-I", "-S", "-X", f"pycache_prefix={made / FOLDER}", "-c", program], check=True, timeout=120
    )
    return made


def put_into(cache_folder: Path) -> Path:
    """Give a cache folder of a test's own what is compiled, and return it."""
    cache_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (cache_folder / FOLDER).exists():
        shutil.copytree(cache() / FOLDER, cache_folder / FOLDER, copy_function=os.link)
    return cache_folder
