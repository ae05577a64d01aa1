"""How the worker gets to where it is not installed: one archive, cached there by digest, and a first step that unpacks it.

The command that a far shell sees consists of letters, digits and `+/=_-.,;()"` inside single quotes, which bash, dash, zsh,
fish and csh leave alone alike (docs/decisions/33-ssh-host.md).
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import shlex
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mer_worker
from mer_worker.stage0 import FAIL, GO, NEED

MARKS = {GO: "go", NEED: "need", FAIL: "fail"}
MARK_BYTES = 8

_START = (
    "import sys;sys.path[:]=[sys.argv.pop(1)]+[p for p in sys.path if p];import mer_worker.stdio;del sys.path[0];"
    "from mer_worker.{} import main;main()"
)
START, FAR_START = _START.format("__main__"), _START.format("far")
"""What becomes a worker, and what does a far task. Without -I, so that what the far user has installed for himself is found."""


class Archive(NamedTuple):
    """The worker's code, compressed."""

    digest: str
    data: bytes


class Noticed(NamedTuple):
    """The first mark in what a far host said: which, what stood before it (a login shell's words), and what after."""

    what: str
    before: bytes
    after: bytes


@functools.cache
def archive() -> Archive:
    """Return the worker's code as it travels: compressed JSON of path and text, the same for the same code."""
    root = Path(mer_worker.__file__).parent
    files = {
        path.relative_to(root.parent).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*.py"))
    }
    data = zlib.compress(json.dumps(files, sort_keys=True, separators=(",", ":")).encode(), 9)
    return Archive(hashlib.sha256(data).hexdigest(), data)


@functools.cache
def _stage0() -> str:
    """Return the first step as one line of Python without a quote, a backslash or anything else that a shell looks at."""
    source = (Path(mer_worker.__file__).parent / "stage0.py").read_text(encoding="utf-8")
    packed = base64.b64encode(zlib.compress(source.encode(), 9)).decode()
    return (
        "import base64,json,sys,zlib;"
        f'exec(zlib.decompress(base64.b64decode("{packed}")));'
        "main(json.loads(base64.b64decode(sys.argv[1]).decode()))"
    )


def command(python: str | None, task: Mapping[str, Any]) -> str:
    """Return the line for a far login shell that starts the first step with a task.

    `python` is an absolute path; None: the `python3` that the shell finds, or a newer one beside it.
    """
    whole = {"search": python is None, "again": _stage0(), **task}
    told = base64.b64encode(json.dumps(whole).encode()).decode()
    return f"exec {shlex.quote(python or 'python3')} -E -S -c '{_stage0()}' {told}"


def notice(said: bytes) -> Noticed | None:
    """Return the first mark in what was said so far; None while there is none."""
    at, mark = min(((found, mark) for mark in MARKS if (found := said.find(mark)) >= 0), default=(-1, b""))
    return None if at < 0 else Noticed(MARKS[mark], said[:at], said[at + MARK_BYTES :])
