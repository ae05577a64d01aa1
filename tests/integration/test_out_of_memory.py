"""A tensor for which there is no memory: its request fails, in words that fit, and the conversation goes on."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from mer.core.errors import Busy, LimitExceeded, OutOfMemory
from mer.core.specs import Batch, Limits
from mer.meal.session import Session
from mer.meal.streams import PartStream, inference
from mer_worker import bodies
from mer_worker.decoder import Decoder
from mer_worker.tensors import Buffer, encode
from mer_worker.wire import Kind
from tests.support.workers import local_host, session_with

SIZE = 64 << 20

TIGHT = """
    import resource
    def used():
        with open("/proc/self/status") as told:
            return next(int(line.split()[1]) << 10 for line in told if line.startswith("VmData"))
    def do(inputs):
        if "tight" in inputs:
            resource.setrlimit(resource.RLIMIT_DATA, (used() + inputs["tight"], -1))
        return {"large": bytes(inputs["give"])} if "give" in inputs else {"ok": True}
    def one():
        return do
    def batch():
        return lambda many: [do(inputs) for inputs in many]
    def tasks():
        async def handle(inputs):
            return do(inputs)
        return handle
    def parts():
        def handle(inputs, context):
            do(inputs)
            return {"sizes": [len(part["x"].data) for part in context.parts()]}
        return handle
"""


async def ask(session: Session, **inputs: Any) -> dict[str, Any]:
    return (await session.infer(encode(inputs))).outputs


def used() -> int:
    """Return the bytes of data that this process has mapped."""
    told = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) << 10 for line in told.splitlines() if line.startswith("VmData"))


def large() -> Buffer:
    return Buffer(bytes(SIZE), "uint8", (SIZE,))


@pytest.mark.parametrize(
    ("entry", "spec"),
    [
        ("one", {}),
        ("one", {"concurrency": 2}),
        ("batch", {"batch": Batch(max_size=2)}),
        ("tasks", {}),
    ],
    ids=["serial", "threads", "batches", "tasks"],
)
async def test_inputs_for_which_a_worker_has_no_memory_are_refused_and_it_goes_on(
    tmp_path: Path, entry: str, spec: dict[str, Any]
) -> None:
    host = local_host(tmp_path, memory_bytes=0)
    async with session_with(tmp_path, TIGHT, host=host, options={"entrypoint_fn": entry}, **spec) as session:
        await ask(session, tight=SIZE // 2)
        for _ in range(2):
            with pytest.raises(Busy, match=r"no memory for 67[0-9]* bytes"):
                await ask(session, x=large())
            assert await ask(session, x=Buffer(bytes(1 << 20), "uint8", (1 << 20,))) == {"ok": True}


async def test_under_a_limit_of_memory_it_is_named(tmp_path: Path) -> None:
    host, limits = local_host(tmp_path, memory_bytes=0), Limits(memory_bytes=256 << 20)
    async with session_with(tmp_path, TIGHT, host=host, options={"entrypoint_fn": "one"}, limits=limits) as session:
        await ask(session, tight=SIZE // 2)
        with pytest.raises(LimitExceeded, match=r"no memory for 67[0-9]* bytes") as caught:
            await ask(session, x=large())
        assert caught.value.code == "limit:memory"
        assert await ask(session) == {"ok": True}


async def test_an_input_part_for_which_there_is_none_fails_its_request(tmp_path: Path) -> None:
    host = local_host(tmp_path, memory_bytes=0)
    async with session_with(tmp_path, TIGHT, host=host, options={"entrypoint_fn": "parts"}) as session:

        async def parts() -> Any:
            yield encode({"x": large()})

        message = await inference(session, encode({"tight": SIZE // 2}))
        stream = await PartStream.open(session, message, parts=parts())
        with pytest.raises(Busy, match=r"no memory for 67[0-9]* bytes"):
            async for _ in stream:
                pass
        await stream.aclose()
        assert await ask(session) == {"sizes": []}


async def test_an_answer_for_which_the_driver_has_none_fails_alone(tmp_path: Path) -> None:
    host = local_host(tmp_path, memory_bytes=0)
    async with session_with(tmp_path, TIGHT, host=host, options={"entrypoint_fn": "one"}) as session:
        before = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used() + SIZE // 2, before[1]))
        try:
            with pytest.raises(OutOfMemory, match=r"no memory for 67[0-9]* bytes"):
                await ask(session, give=SIZE)
        finally:
            resource.setrlimit(resource.RLIMIT_DATA, before)
        assert await ask(session) == {"ok": True}


@pytest.mark.parametrize("piece", [1000, 65_536, 300_000])
def test_a_body_without_memory_is_skipped_however_it_is_cut(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    aligned = bodies.aligned

    def short(size: int) -> memoryview:
        if size > 200_000:
            raise MemoryError
        return aligned(size)

    monkeypatch.setattr(bodies, "aligned", short)
    frames = b"".join(
        b"".join(map(bytes, encode({"x": bytes(size)}).message(Kind.RESULT, number)))
        for number, size in enumerate((10, 250_000, 150_000, 1 << 20, 20), 1)
    )
    decoder = Decoder(preamble=False)
    got = [frame for at in range(0, len(frames), piece) for frame in decoder.feed(frames[at : at + piece])]
    assert [(frame.request, bool(frame.dropped)) for frame in got] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
        (5, False),
    ]
    assert decoder.between_frames
