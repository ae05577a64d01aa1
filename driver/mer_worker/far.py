"""Tasks on a far host beside running models: to sweep up after a worker, to look around, to free room.

Started by stage0 as a worker is, under the same interpreter and in the same cache. A task's fields come as JSON on stdin up to
its end; the answer is one line of JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys

from mer_worker import stdio

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_FIELDS = 64 << 20
"""Bytes of a task's fields: a list of a million digests."""

FIELDS_SECONDS = 60
"""For a task's fields to come: where the network falls silent nobody tells of their end."""

TASK_SECONDS = 900
"""For the task itself: the driver waits for five minutes at most, and one that hangs on a lock would stay for ever."""

_TASKS = {
    "gc": "mer_worker.collecting:collect",
    "probe": "mer_worker.probing:probe",
    "sweep": "mer_worker.orphans:swept",
}
"""By name: which function does it. It takes the cache folder and the fields, and returns an object."""


def main() -> None:
    """Do the task that the arguments name."""
    source, sink = stdio.take()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, whatever it waits for
    signal.alarm(FIELDS_SECONDS)
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    answer: dict[str, Any]
    try:
        module, _, name = _TASKS[arguments["--task"]].partition(":")
        do: Callable[[str, dict[str, Any]], dict[str, Any]] = getattr(importlib.import_module(module), name)
        fields = _fields(source)
        signal.alarm(TASK_SECONDS)
        answer = {"done": do(arguments["--cache"], fields)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked is told
        answer = {"failed": f"{type(error).__name__}: {error}"}
    line = memoryview(json.dumps(answer).encode("ascii") + b"\n")
    while line:
        line = line[os.write(sink, line) :]


def _fields(source: int) -> dict[str, Any]:
    pieces = bytearray()
    while piece := os.read(source, 1 << 20):
        pieces += piece
        if len(pieces) > MAX_FIELDS:
            raise ValueError("the task is too large")
    fields = json.loads(pieces or b"{}")
    if not isinstance(fields, dict):
        raise TypeError("a task's fields are an object")
    return fields
