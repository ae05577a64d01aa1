"""A session for tests that are no coroutines, hypothesis's above all: a worker of their own, asked and waited for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mer.meal.session import Session
from mer_worker.tensors import encode
from tests.support.workers import session_with


class Blocking:
    """One session, in a loop of its own that runs only while a call does."""

    def __init__(self, loop: asyncio.AbstractEventLoop, session: Session) -> None:
        self.session = session
        self._loop = loop

    def __call__(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the handler answers."""
        return self._loop.run_until_complete(self.session.infer(encode(values))).outputs


@contextlib.contextmanager
def blocking(folder: Path, source: str, **given: Any) -> Iterator[Blocking]:
    """Give a session whose worker has loaded the handler (tests.support.workers)."""
    loop = asyncio.new_event_loop()
    made = session_with(folder, source, **given)
    session = loop.run_until_complete(made.__aenter__())
    try:
        yield Blocking(loop, session)
    finally:
        loop.run_until_complete(made.__aexit__(None, None, None))
        loop.close()
