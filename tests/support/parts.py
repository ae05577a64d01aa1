"""Answers and inputs in parts, read whole, and what must hold of them whatever serves the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from mer.meal.loaded import LoadedModel
from mer_worker.credit import WINDOW_BYTES
from mer_worker.tensors import Buffer


async def all_of(model: LoadedModel, inputs: dict[str, Any], **given: Any) -> list[dict[str, Any]]:
    return [part async for part in model.stream(inputs, **given)]


def numbers(count: int, **last: Any) -> list[dict[str, Any]]:
    """Return the parts of a handler that counts, and the one by which it ends."""
    return [{"number": number} for number in range(count)] + ([last] if last else [])


def heard(said: list[bytes]) -> Callable[[str, str, bytes], None]:
    """Return what takes a model's prints into a list."""
    return lambda _stream, _level, text: said.append(text)


async def input_parts_wait_for_a_slow_handler(model: LoadedModel) -> None:
    """See that no more of them are taken than may be on their way. The model `weigh`s each, with a pause before it."""
    size, taken = 8 << 20, 0

    def given() -> Iterator[dict[str, Any]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"x": Buffer(bytes(size), "uint8", (size,))}

    stream = model.stream({"do": "weigh", "pause": 0.05}, parts=given())
    assert await anext(stream) == {"bytes": size}
    assert taken * size <= WINDOW_BYTES + 6 * size
    await stream.aclose()
