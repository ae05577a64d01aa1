"""`mer` over a store in memory: the whole program, its REPL and its signals, without a database to start.

    python -m tests.support.memory_console [OPTIONS] [COMMAND]

The model `echo` is there: `sleep 5` as its text makes it wait so many seconds, `count 3 0.1` makes it answer in three parts
with such pauses between them, `double` in a part for each that it is given.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator

from mer.api import Mer
from mer.core.actor import Guest, Via
from mer.core.specs import TensorSpec
from mer.faces.cli import main
from mer.settings import Settings

HANDLER = """
import sys, time


def load():
    def handler(inputs, context):
        text = inputs["text"]
        if text.startswith("count "):
            return count(int(text.split()[1]), float((text + " 0").split()[2]))
        if text == "double":
            return ({"text": 2 * part["text"]} for part in context.parts())
        print("reading", text)
        sys.stdout.flush()
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        if text == "fail":
            raise ValueError("no such word")
        if text == "steer":
            return {"text": "\\x1b]0;owned\\x07\\x1b[2J"}
        return {"text": text.upper()}

    return handler


def count(to, pause):
    for number in range(1, to + 1):
        yield {"number": number}
        time.sleep(pause)
"""


@contextlib.asynccontextmanager
async def open_in_memory(settings: Settings, via: Via, *, guest: Guest | None = None) -> AsyncIterator[Mer]:
    from mer.__main__ import compose
    from mer.dal.memory import MemoryStore
    from mer.settings import load
    from mer.surroundings import current_actor
    from tests.support.running import folder_with, python_spec

    store = MemoryStore()
    actor = current_actor(via, environ=os.environ, guest=guest)
    allowed = load(environ=os.environ, flags={"allow_changes": True})
    folder = folder_with(settings.state_folder / "package", HANDLER)
    text = TensorSpec(name="text", dtype="string", shape=())
    async with compose(allowed, actor=actor, store=store) as m:
        await m.register_model("echo", folder, spec=python_spec(inputs=(text,)))
    async with compose(settings, actor=actor, store=store, guest=guest) as m:
        yield m


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], environ=os.environ, open_mer=open_in_memory))
