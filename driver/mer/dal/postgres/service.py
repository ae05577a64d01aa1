"""Hides PGSERVICE from libpq while it connects to the embedded server.

Every other PG* variable is overruled by the connection string. This one is not: libpq (up to 18, tried) has no word for "no
service". One that it does not know is an error whatever else was said, `service=''` looks for a service without a name, and the
file to look in is named by the environment alone: `servicefile` is no keyword of it yet. So the variable goes for the moment.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLE = "PGSERVICE"


class _Hidden:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._value: str | None = None

    def hide(self) -> None:
        with self._lock:
            if not self._users:
                self._value = os.environ.pop(VARIABLE, None)
            self._users += 1

    def show(self) -> None:
        with self._lock:
            self._users -= 1
            if not self._users and self._value is not None:
                os.environ[VARIABLE] = self._value


_hidden = _Hidden()  # the environment is one for the whole process


@contextmanager
def no_service(*, hermetic: bool) -> Iterator[None]:
    """Connect without a service within the block, where the connection is to be `hermetic`. Several may at once."""
    if not hermetic or (VARIABLE not in os.environ and not _hidden._users):
        yield
        return
    _hidden.hide()
    try:
        yield
    finally:
        _hidden.show()
