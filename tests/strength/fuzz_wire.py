"""Fuzz what reads the wire, led by coverage: `pip install atheris`, then

    python tests/strength/fuzz_wire.py -max_total_time=600 -rss_limit_mb=512 CORPUS_FOLDER

Whatever the bytes: frames and values, or WireError; anything else (another error, a hang, memory) stops it. The corpus
begins with the examples of docs/wire.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "driver"))

with atheris.instrument_imports():
    from mer_worker.conversation import Peer
    from mer_worker.decoder import Decoder
    from mer_worker.layout import open_frame
    from mer_worker.tensors import encode, values_of
    from mer_worker.wire import PREAMBLE, Kind, Limits, WireError

LIMITS = Limits(head=1 << 16, body=1 << 20)


def examples() -> list[bytes]:
    """Return the bytes of the page's examples."""
    page = (ROOT / "docs" / "wire.md").read_text()
    return [
        bytes.fromhex("".join(line[6:54] for line in block.splitlines()))
        for block in re.findall(r"^```hex\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    ]


def test_one_input(data: bytes) -> None:
    """Read the bytes, cut as their first one says."""
    if not data:
        return
    step, data = data[0] + 1, data[1:]
    decoder = Decoder(LIMITS, preamble=data.startswith(PREAMBLE))
    at = 0
    try:
        while at < len(data):
            room = decoder.buffer()
            count = min(len(room), len(data) - at, step if step < 200 else len(data))
            room[:count] = data[at : at + count]
            at += count
            for frame in decoder.received(count):
                assert len(frame.head) <= LIMITS.head
                assert len(frame.body) <= LIMITS.body
                try:
                    if frame.kind == Kind.HELLO:
                        Peer(frame.fields())
                    layout, _, segments = open_frame(frame)
                    values = values_of(layout, segments, "buffer")
                    encode({name: value for name, value in values.items() if value != []})
                except WireError:
                    continue
    except WireError:
        pass


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    for folder in folders[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for index, example in enumerate(examples()):
            for step in (b"\x00", b"\x10", b"\xff"):
                (folder / f"example-{index}-{step[0]}").write_bytes(step + example)
    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()
