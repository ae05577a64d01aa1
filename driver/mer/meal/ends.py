"""What the end of a worker means to an operator, from how its process ended."""

from __future__ import annotations

import signal
from pathlib import Path

from mer.core.errors import MerError, WorkerLost, limit_exceeded

FOR_MEMORY = "for want of memory"
"""In what a stream says of a process that the kernel has ended, since the machine had no more."""

_VMSTAT = Path("/proc/vmstat")


def describe(status: int | None) -> str:
    """Return how a process ended, in words."""
    if status is None:
        return "ended"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def loss(reason: str, log: str) -> MerError:
    """Return the error of a worker of which a stream says `reason`; `log` is the end of its own log, for people."""
    if reason.endswith("SIGXCPU"):  # nothing else sends it: no interrupt could stop the model's C code
        return limit_exceeded("cpu", "the run used more CPU time than its limit, and the kernel ended its worker")
    if reason.endswith(FOR_MEMORY):
        hint = "--memory-limit of `mer model register` ends a model before the machine is out of memory."
        return WorkerLost(f"the worker {reason}{log}", hint=hint)
    return WorkerLost(f"the worker {reason}{log}")


def memory_kills(vmstat: Path = _VMSTAT) -> int:
    """Return how many processes the kernel has ended since boot because memory ran out; 0 where it does not tell."""
    try:
        for line in vmstat.read_bytes().splitlines():
            if line.startswith(b"oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
