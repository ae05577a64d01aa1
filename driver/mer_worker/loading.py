"""The load frame: how a version is run in its head, the list of its weights in its body (docs/wire.md, section 7).

A head is small, and the list has a line for each of up to 100,000 tensors.
"""

from __future__ import annotations

from mer_worker.wire import MAX_JSON_BYTES, BodyDropped, FrameTooLarge, Kind, WireError, dump, frame, parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mer_worker.wire import Frame

MAX_LIST_BYTES = MAX_JSON_BYTES
"""Of the list: 600 bytes for each tensor, where 150 are usual."""


def load_frame(fields: Mapping[str, Any], request: int, *, most_body: int = MAX_LIST_BYTES) -> bytes:
    """Return the frame that has a worker load what the fields say, which takes bodies of `most_body` bytes.

    Raises:
        WireError: they have no form on the wire, or are beyond a cap.
    """
    head, body = dict(fields), b""
    if type(head.get("weights")) is list:  # of a lender, who has the version, it is a digest
        body, most = dump(head.pop("weights")), min(most_body, MAX_LIST_BYTES)
        if len(body) > most:
            raise FrameTooLarge(f"a list of weights of {len(body)} bytes: the cap is {most}")
    return frame(Kind.LOAD, head, request=request, body=body)


def load_fields(received: Frame) -> dict[str, Any]:
    """Return what a load frame says, with the list of its body under `weights`.

    Raises:
        WireError: it is not as docs/wire.md has it. BodyDropped: there was no memory for its body.
    """
    if received.dropped:
        raise BodyDropped(f"there is no memory for a list of weights of {received.dropped} bytes")
    fields = received.fields()
    if len(received.body):
        if len(received.body) > MAX_LIST_BYTES:
            raise FrameTooLarge(f"a list of weights of {len(received.body)} bytes: the cap is {MAX_LIST_BYTES}")
        fields["weights"] = listed = parse(received.body)
        if type(listed) is not list:
            raise WireError("the body of a load is a list of weights")
    return fields
