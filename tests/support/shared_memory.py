"""What a PostgreSQL that was ended by kill -9 leaves in the system: System V segments, which outlive processes and folders.

The next start in the same folder takes them away. Where the folder goes instead, nobody would.
"""

from __future__ import annotations

import ctypes
import struct
import time
from pathlib import Path

SEGMENTS = Path("/proc/sysvipc/shm")
"""Linux's own; elsewhere nothing is removed."""

CHILDREN_SECONDS = 5.0
"""How long the children of a killed server may take to notice, and to let its memory go."""

_REMOVE = 0  # IPC_RMID
_READ_ONLY = 0o10000  # SHM_RDONLY
_FAILED = ctypes.c_void_p(-1).value

_MAGIC = 0x9A503D32
_HEAD = struct.Struct("=II8x")
_ENTRY = struct.Struct("=i36x")
"""dsm_control_header (magic, number) and dsm_control_item (handle, and more) of PostgreSQL 13 to 18 on 64 bits."""


def remove_left_behind(data: Path) -> None:
    """Remove the segments of the server of that folder, if it was killed; who was stopped has removed them, and his file."""
    file = data / "postmaster.pid"
    if not (SEGMENTS.exists() and file.exists()):
        return
    lines = file.read_text().splitlines()
    # https://github.com/postgres/postgres/blob/REL_18_STABLE/src/include/utils/pidfile.h: the first is the server's pid, the
    # seventh the key and the id of the segment that keeps a second server out
    server = int(lines[0]) if lines and lines[0].isdecimal() else 0
    interlock = int(lines[6].split()[-1]) if len(lines) > 6 and lines[6].split() else -1
    if not server or _lives(server):
        return
    handles = {key for each in _segments() if each["cpid"] == server for key in _handles(each)}
    until = time.monotonic() + CHILDREN_SECONDS
    while segments := [
        each for each in _segments() if each["shmid"] == interlock or each["cpid"] == server or each["key"] in handles
    ]:
        for each in segments:
            if not each["nattch"]:
                _libc().shmctl(each["shmid"], _REMOVE, None)
        if time.monotonic() > until:
            return
        if any(each["nattch"] for each in segments):
            time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # a zombie has none
    except (FileNotFoundError, ProcessLookupError):
        return False


def _handles(segment: dict[str, int]) -> set[int]:
    """Return the keys of what a server's children have made, if that segment is the one that lists them (dsm.c)."""
    entries, rest = divmod(segment["size"] - _HEAD.size, _ENTRY.size)
    if rest:
        return set()
    libc = _libc()
    at = libc.shmat(segment["shmid"], None, _READ_ONLY)
    if at in (None, _FAILED):
        return set()
    try:
        content = ctypes.string_at(at, segment["size"])
    finally:
        libc.shmdt(at)
    magic, used = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        return set()
    listed = content[_HEAD.size :][: min(used, entries) * _ENTRY.size]
    return {abs(handle) for (handle,) in _ENTRY.iter_unpack(listed) if handle}  # a key is above 0 for any handle


def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    libc.shmdt.argtypes = [ctypes.c_void_p]
    return libc


def _segments() -> list[dict[str, int]]:
    names, *rows = [line.split() for line in SEGMENTS.read_text().splitlines()]
    return [dict(zip(names, map(int, row), strict=True)) for row in rows]
