"""The SQLSTATE with which a server refuses a connection, where its words are in a language that refusals.py does not read.

libpq keeps the state of a connection that did not come about to itself, and the words are the server's (`lc_messages`), which
no client may choose before it is logged in. What libpq tells is a trace of the messages. So one more try is traced: it is
made only for words that mean nothing to us, and the trace, which may hold a password, stays in this process's memory.
"""

from __future__ import annotations

import os
import re
import select
import time

import psycopg
from psycopg.pq import PGconn, PollingStatus, Trace

from mer.dal.postgres.refusals import REFUSALS, told

SECONDS = 5.0
"""How long that try may take: the server has just answered one."""

MAX_TRACE = 2**20
"""Bytes of the trace that are read. Before it is logged in, a server has little to say."""

_FROM_SERVER = re.compile(r"\w[^:\n]{0,40}:  \S")
"""libpq puts two blanks behind the severity, in whatever language, of what a server said, and one behind its own colons."""

_STATE = re.compile(rb'^B\t\d+\tErrorResponse\t S "[^"]*"(?: V "[^"]*")? C "([0-9A-Z]{5})"', re.MULTILINE)


def unread(error: psycopg.OperationalError | UnicodeError) -> bool:
    """Tell whether a server gave a reason that only its state can tell."""
    if isinstance(error, UnicodeError) or error.sqlstate or not _FROM_SERVER.search(str(error)):
        return False
    return not any(words in told(error) for refusal in REFUSALS for words in refusal.words)


def state_of(conninfo: str, *, seconds: float = SECONDS) -> str | None:
    """Try to connect once more, and return the state that the server refuses it with; None where it gives none. This blocks."""
    if not hasattr(os, "memfd_create"):
        return None
    trace = os.memfd_create("mer-trace", os.MFD_CLOEXEC)
    try:
        _try(conninfo, trace, until=time.monotonic() + seconds)
        states = _STATE.findall(os.pread(trace, MAX_TRACE, 0))
    except (psycopg.Error, OSError):
        return None
    finally:
        os.close(trace)
    return states[-1].decode() if states else None


def _try(conninfo: str, trace: int, *, until: float) -> None:
    line = PGconn.connect_start(conninfo.encode())
    own = os.dup(trace)  # libpq's, which it does not close
    try:
        line.trace(own)
        line.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        wanted = PollingStatus.WRITING
        while wanted in (PollingStatus.READING, PollingStatus.WRITING):
            waiting = select.poll()
            waiting.register(line.socket, select.POLLIN if wanted == PollingStatus.READING else select.POLLOUT)
            if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
                break
            wanted = PollingStatus(line.connect_poll())
        line.untrace()
    finally:
        line.finish()
        os.close(own)
