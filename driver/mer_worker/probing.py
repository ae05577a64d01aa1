"""What a host says of itself: interpreter, cache folder, room, memory, GPUs and clock. One task of mer_worker.far.

Everything here is a fact or the reason why there is none; what to make of it is the driver's affair.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

GPU_SECONDS = 10.0
"""What nvidia-smi gets: it takes seconds where no persistence daemon keeps the driver loaded, and hangs on a broken card."""

DYING_SECONDS = 1.0
"""What it gets to die, once it was killed."""

GPU_FOLDERS = ("/usr/bin", "/usr/local/bin", "/usr/local/nvidia/bin", "/opt/bin", "/usr/lib/wsl/lib")
"""Where nvidia-smi is looked for beside PATH, which a login without start-up files has short."""

MAX_GPUS = 64

MAX_REASON = 300
"""Characters of why something failed."""

_MEBIBYTE = 1 << 20


def probe(cache: str, _fields: dict[str, Any]) -> dict[str, Any]:
    """Return the facts. Sizes are bytes, `clock` is microseconds since 1970, `took` how many each fact took."""
    facts: dict[str, Any] = {
        "python": sys.executable,
        "version": ".".join(map(str, sys.version_info[:3])),
        "cache": cache,
        "took": {},
    }
    for name, key, look in (
        ("cache", "unwritable", lambda: _unwritable(cache)),
        ("disk", "disk", lambda: _disk(cache)),
        ("memory", "memory", _memory),
        ("gpus", "gpus", _gpus),
    ):
        began = time.monotonic_ns()
        facts[key] = look()
        facts["took"][name] = (time.monotonic_ns() - began) // 1000
    facts["clock"] = time.time_ns() // 1000
    return facts


def _unwritable(folder: str) -> Optional[str]:
    """Write a page and take it away again, and return why that failed: a full or read-only disk is not seen by looking."""
    place = os.path.join(folder, f"probe.{os.getpid()}")
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, b"\0" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(place)
    except OSError as error:
        return str(error.strerror or error)
    return None


def _disk(folder: str) -> dict[str, int]:
    found = shutil.disk_usage(folder)
    return {"free": found.free, "total": found.total}


def _memory() -> Optional[dict[str, int]]:
    """Return what is available, as Linux counts it; None elsewhere."""
    try:
        with open("/proc/meminfo", encoding="ascii", errors="replace") as file:
            lines = dict(line.split(":", 1) for line in file if ":" in line)
        return {
            "available": int(lines["MemAvailable"].split()[0]) << 10,
            "total": int(lines["MemTotal"].split()[0]) << 10,
        }
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _gpus() -> dict[str, Any]:
    """Return `found`, and `failed` with the reason where nvidia-smi is there and does not answer."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *GPU_FOLDERS])
    program = shutil.which("nvidia-smi", path=path)
    if program is None:
        return {"found": []}
    asked = "--query-gpu=index,name,memory.total,memory.free"
    try:
        running = subprocess.Popen(
            [program, asked, "--format=csv,noheader,nounits"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        told, errors = running.communicate(timeout=GPU_SECONDS)
    except subprocess.TimeoutExpired:
        running.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in a broken card's driver does not die
            running.communicate(timeout=DYING_SECONDS)
        return {"found": [], "failed": f"nvidia-smi did not answer within {GPU_SECONDS:g} s"}
    except OSError as error:
        return {"found": [], "failed": f"nvidia-smi: {error.strerror or error}"}
    said = told.decode("utf-8", "replace")
    if running.returncode:
        words = " ".join((said + errors.decode("utf-8", "replace")).split())
        return {"found": [], "failed": f"nvidia-smi: {words[:MAX_REASON] or running.returncode}"}
    return {"found": [gpu for gpu in map(_gpu, said.splitlines()[:MAX_GPUS]) if gpu is not None]}


def _gpu(line: str) -> Optional[dict[str, Any]]:
    """Read `0, NVIDIA H100 80GB HBM3, 81559, 81153`; memory is `[N/A]` where a card shares that of the machine."""
    index, _, rest = line.partition(",")
    name, total, free = (part.strip() for part in ("," + rest).rsplit(",", 2)) if rest.count(",") >= 2 else ("", "", "")
    if not name:
        return None
    return {"index": index.strip(), "name": name.lstrip(", "), "total": _bytes(total), "free": _bytes(free)}


def _bytes(mebibytes: str) -> Optional[int]:
    try:
        return int(mebibytes) * _MEBIBYTE
    except ValueError:
        return None
