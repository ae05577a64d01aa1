"""Every implementation of the far side there is, each with the same handler, and a bare conversation with one of them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import textwrap
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mer.core.specs import VersionSpec
from mer.meal.host import Host, Launch
from mer.meal.plan import WorkerPlan
from mer.meal.session import Session
from mer.meal.stream import Stream
from mer_worker import wire
from mer_worker.decoder import Decoder
from mer_worker.templates import Incoming
from mer_worker.wire import Frame, Kind
from tests.support import sshd
from tests.support.documents import ROOT
from tests.support.workers import local_host

NODE = shutil.which("node")
NODE_WORKER = ROOT / "examples" / "node" / "worker.mjs"

PYTHON_HANDLER = """
    import sys, time

    def load(**options):
        if "say" in options:
            print(options["say"])
        if "fail" in options:
            inner(options["fail"])
        return handle

    def inner(text):
        raise ValueError(text)

    def parts(do):
        for number in range(do["parts"]):
            yield {"number": number, "x": b"x" * do.get("size", 0)}
        if "last" in do:
            return {"last": do["last"]}
        if "failing" in do:
            inner(do["failing"])

    def handle(inputs, context):
        do = inputs.get("do", {})
        if "print" in do:
            print(do["print"], flush=True)
        if "complain" in do:
            print(do["complain"], file=sys.stderr)
        if "flood" in do:
            for _ in range(do["flood"]):
                print("x" * 1023)
        if "sleep" in do:
            time.sleep(do["sleep"])
        if "fail" in do:
            inner(do["fail"])
        if "wrong" in do:
            return {"nothing": None, "list": [1], "unsendable": {"x": object()}, "nan": {"x": float("nan")}}[do["wrong"]]
        if "large" in do:
            return {"x": bytes(do["large"])}
        if "meta" in do:
            return {"meta": dict(context.meta)}
        if "parts" in do:
            return parts(do)
        if "inputs" in do:
            return {"sizes": [len(part["x"]) for part in context.parts()]}
        if "double" in do:
            return ({"x": part["x"] * 2} for part in context.parts())
        return {name: value for name, value in inputs.items() if name != "do"}
"""

NODE_HANDLER = """
    export function load(options) {
      if (options.say) console.log(options.say);
      if (options.fail) inner(options.fail);
    }
    function inner(text) { throw new TypeError(text); }
    function* parts(given) {
      for (let number = 0; number < given.parts; number++) yield { number, x: new Uint8Array(given.size ?? 0).fill(120) };
      if ("last" in given) return { last: given.last };
      if ("failing" in given) inner(given.failing);
    }
    async function* doubled(inputs) {
      for await (const part of inputs) yield { x: Buffer.concat([part.x, part.x]) };
    }
    export async function handler(inputs, context) {
      const { do: given = {}, ...rest } = inputs;
      if ("print" in given) console.log(given.print);
      if ("complain" in given) console.error(given.complain);
      for (let line = 0; line < (given.flood ?? 0); line++) console.log("x".repeat(1023));
      if ("sleep" in given) {
        await new Promise((resolve, reject) => {
          const timer = setTimeout(resolve, 1e3 * given.sleep);
          context.signal.addEventListener("abort", () => { clearTimeout(timer); reject(context.signal.reason); });
        });
      }
      if ("fail" in given) inner(given.fail);
      if ("wrong" in given) {
        return { nothing: null, list: [1], unsendable: { x: () => 1 }, nan: { x: { y: NaN } } }[given.wrong];
      }
      if ("large" in given) return { x: new Uint8Array(given.large) };
      if ("meta" in given) return { meta: context.meta };
      if ("parts" in given) return parts(given);
      if ("inputs" in given) {
        const sizes = [];
        for await (const part of context.inputs) sizes.push(part.x.length);
        return { sizes };
      }
      if ("double" in given) return doubled(context.inputs);
      return rest;
    }
"""


@dataclasses.dataclass(frozen=True)
class Peer:
    """One implementation, or one way to run it."""

    name: str
    runner: str
    control: bool
    far: bool = False
    """Over SSH."""

    def host(self, folder: Path) -> Host:
        """Return a host that starts it."""
        if self.far:
            return sshd.host(sshd.of_process_or_stand_in())
        return _Host(local_host(folder), self)

    def plan(self, folder: Path, *, source: str | None = None, **options: Any) -> WorkerPlan:
        """Return the plan of the handler above, or of another source."""
        model = folder / "model"
        model.mkdir(parents=True, exist_ok=True)
        if self.runner == "python":
            given: dict[str, Any] = {"entrypoint_package": "handler", "entrypoint_fn": "load"}
            (model / "handler.py").write_text(textwrap.dedent(source or PYTHON_HANDLER))
        else:
            given = {}
            (model / "handler.mjs").write_text(textwrap.dedent(source or NODE_HANDLER))
        spec = VersionSpec(runner=self.runner, options=given | options, arrays="buffer")
        return WorkerPlan(key=f"{self.name}:1", spec=spec, package=None, model_folder=model)


PEERS = (
    Peer("control", "python", control=True),
    Peer("in-band", "python", control=False),
    Peer("ssh", "python", control=False, far=True),
    Peer("node", "javascript", control=False),
)


class _Host(Host):
    """This machine, with another worker's argv or without a control channel."""

    def __init__(self, local: Host, peer: Peer) -> None:
        self.name = peer.name
        self._local = local
        self._peer = peer

    async def probe(self) -> Any:
        return await self._local.probe()

    async def prepare(self) -> Launch:
        launch = dataclasses.replace(await self._local.prepare(), control=self._peer.control)
        if self._peer.runner == "javascript":
            assert NODE is not None
            launch = dataclasses.replace(launch, argv=(NODE, str(NODE_WORKER)))
        return launch

    async def open(self, launch: Launch) -> Stream:
        return await self._local.open(launch)

    async def kill(self, launch: Launch) -> None:
        await self._local.kill(launch)


class Bare:
    """A driver's side that says whatever it is told to, and keeps what comes."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.frames: asyncio.Queue[Frame | str] = asyncio.Queue()
        """What came, in order; last, in words, how the worker ended."""
        self.logs: list[Frame] = []
        self.hello: Mapping[str, Any] = {}
        self._decoder = Decoder(templates=Incoming(Kind.RESULT, "buffer", writable=True))
        self.get_buffer = self._decoder.buffer

    def say(self, *pieces: bytes) -> None:
        """Send bytes as they are."""
        self.stream.write(*pieces)

    def frame(self, kind: int, fields: Mapping[str, Any] | None = None, **given: Any) -> None:
        """Send a frame without tensors."""
        self.say(wire.frame(kind, fields, **given))

    def control(self, kind: int, request: int) -> None:
        """Send a cancel or a ping, by the channel that the worker takes them on."""
        (self.stream.control or self.stream).write(wire.pack(kind, request=request))

    async def next(self, *, seconds: float = 20.0) -> Frame | str:
        """Return what comes next, log frames aside; or, in words, how the worker ended."""
        async with asyncio.timeout(seconds):
            while True:
                found = await self.frames.get()
                if isinstance(found, str) or found.kind != Kind.LOG:
                    return found
                self.logs.append(found)

    def can(self, capability: str) -> None:
        """Skip the test for a worker that does not state the capability."""
        if capability not in self.hello["capabilities"]:
            pytest.skip(f"this worker does not state {capability}")

    async def part(self, request: int) -> Frame:
        """Return the next frame, which has to be a part of this request's answer."""
        found = await self.next()
        assert isinstance(found, Frame), found
        assert (found.kind, found.request) == (Kind.PART, request), found
        return found

    async def silent(self, *, seconds: float = 0.3) -> None:
        """See that nothing comes for a while."""
        with contextlib.suppress(TimeoutError):
            raise AssertionError(await self.next(seconds=seconds))

    async def result(self, request: int) -> Frame:
        """Return the next frame, which has to be this request's result."""
        found = await self.next()
        assert isinstance(found, Frame), found
        assert (found.kind, found.request) == (Kind.RESULT, request), found
        return found

    async def error(self, request: int) -> Mapping[str, Any]:
        """Return the fields of the next frame, which has to be this request's error."""
        found = await self.next()
        assert isinstance(found, Frame), found
        assert (found.kind, found.request) == (Kind.ERROR, request), found
        return found.fields()

    async def end(self) -> str:
        """Return how the worker ended, which has to come next."""
        found = await self.next()
        assert isinstance(found, str), found
        return found

    def buffer_updated(self, count: int) -> None:
        for received in self._decoder.received(count):
            self.frames.put_nowait(received)

    def log(self, text: bytes) -> None:
        """What it writes to fd 2 is not looked at here."""

    def ended(self, reason: str) -> None:
        self.frames.put_nowait(reason)


class _Control:
    """Passes on the frames of a control channel."""

    def __init__(self, bare: Bare) -> None:
        self._bare = bare
        self._decoder = Decoder(preamble=False)
        self.get_buffer = self._decoder.buffer

    def buffer_updated(self, count: int) -> None:
        for received in self._decoder.received(count):
            self._bare.frames.put_nowait(received)

    def log(self, text: bytes) -> None:
        pass

    def ended(self, reason: str) -> None:
        pass


HELLO = {
    "protocol": {"min": 1, "max": 1},
    "capabilities": ["control", "templates", "stream", "seal"],
    "limits": {"head": wire.MAX_HEAD_BYTES, "body": wire.MAX_BODY_BYTES},
}


@contextlib.asynccontextmanager
async def bare(
    peer: Peer, folder: Path, *, greet: bool = True, load: bool = True, source: str | None = None, **options: Any
) -> AsyncIterator[Bare]:
    """Give a bare conversation, with the hellos said and the handler loaded by request 1 unless not wanted."""
    host = peer.host(folder)
    stream = await host.open(await host.prepare())
    conversation = Bare(stream)
    try:
        stream.start(conversation)
        if stream.control is not None:
            stream.control.start(_Control(conversation))
        hello = await conversation.next()
        assert isinstance(hello, Frame), hello
        assert hello.kind == Kind.HELLO
        conversation.hello = hello.fields()
        if greet:
            conversation.say(wire.PREAMBLE)
            conversation.frame(Kind.HELLO, HELLO)
            if load:
                conversation.frame(Kind.LOAD, peer.plan(folder, source=source, **options).fields(), request=1)
                await conversation.result(1)
        yield conversation
    finally:
        await stream.close(0.5)
        await host.aclose()


@contextlib.asynccontextmanager
async def session(peer: Peer, folder: Path, *, source: str | None = None, **options: Any) -> AsyncIterator[Session]:
    """Give the driver's own session with a worker that has loaded the handler."""
    on_log = options.pop("on_log", None)
    host = peer.host(folder)
    opened = await Session.start(await host.open(await host.prepare()), arrays="buffer", on_log=on_log)
    try:
        deadline = asyncio.get_running_loop().time() + 30
        await opened.load(peer.plan(folder, source=source, **options).fields(), deadline=deadline, on_log=on_log)
        yield opened
    finally:
        await opened.close()
        await host.aclose()
