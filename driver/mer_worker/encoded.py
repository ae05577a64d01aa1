"""Values in the wire's form, and the frames that carry them (docs/wire.md, "Tensors"). What makes them is mer_worker.tensors."""

from __future__ import annotations

from mer_worker.dtypes import NESTED
from mer_worker.layout import Descriptor, Layout, place, table, with_meta
from mer_worker.wire import ALIGNMENT, MAX_BODY_BYTES, FrameTooLarge, pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any, Protocol, Union

    Bytes = Union[bytes, bytearray, memoryview]

    class Naming(Protocol):
        """Who names heads by numbers (mer_worker.templates)."""

        def named(self, layout: Layout) -> tuple[int, bytes]:
            """Return a layout's number, 0 for none, and what to send as its head."""


class Encoded:
    """Named values in the wire's form: a layout, and the segments, which are views wherever that is possible."""

    __slots__ = ("layout", "segments")

    def __init__(self, layout: Layout, segments: list[Bytes]) -> None:
        self.layout = layout
        self.segments = segments

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """One for each name, in order."""
        return self.layout.descriptors

    def message(
        self,
        kind: int,
        request: int,
        *,
        number: int = 0,
        meta: Mapping[str, Any] | None = None,
        most: int = MAX_BODY_BYTES,
        templates: Naming | None = None,
    ) -> tuple[Bytes, ...]:
        """Return a whole frame in pieces, ready for a scatter-gather write.

        `most` is how many bytes of body the other side takes; `templates` names heads for it.

        Raises:
            WireError: the head, the body or the meta is beyond its cap.
        """
        layout, segments = self.layout, self.segments
        total, pieces = self.body()
        if total > most:
            raise FrameTooLarge(f"{total} bytes of tensors: the other side takes {most}")
        template, head = 0, with_meta(layout, meta)
        if templates is not None and not meta:
            template, head = templates.named(layout)  # the last that may fail: what is given a number is sent
        opening = pack(
            kind,
            head,
            request=request,
            segments=len(segments),
            number=number,
            body_bytes=total,
            template=template,
        )
        return (opening + pieces[0], *pieces[1:])

    def body(self) -> tuple[int, list[Bytes]]:
        """Return the body's length and its pieces.

        Raises:
            WireError: it is beyond the body's cap.
        """
        layout, segments = self.layout, self.segments
        if layout.sizes is not None:
            offsets, total, first = layout.offsets, layout.total, layout.table
        else:
            sizes = tuple(map(len, segments))
            offsets, total = place(sizes)
            first = table(sizes)
        pieces: list[Bytes] = [first]
        end = len(first)
        for offset, segment in zip(offsets, segments):
            if offset > end:
                pieces.append(_PADDING[: offset - end])
            if len(segment):
                pieces.append(segment)
            end = offset + len(segment)
        return total, pieces

    def named(self) -> Iterator[tuple[Descriptor, list[Bytes]]]:
        """Yield each descriptor with its segments: one, or one for each inner tensor."""
        at = 0
        for descriptor in self.layout.descriptors:
            count = len(descriptor.inner) if descriptor.dtype == NESTED else 1
            yield descriptor, self.segments[at : at + count]
            at += count


_PADDING = bytes(ALIGNMENT)
