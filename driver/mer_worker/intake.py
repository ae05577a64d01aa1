"""Takes in what a driver pushes by digest (`have` and `put` of docs/wire.md), in threads of its own.

Whoever reads the stream hands the frames on, and waits while too much of them is not written yet: so a driver that sends
faster than the disk writes is held up by the stream itself. One thread hashes and writes, another one waits for the disk to
have a blob that is whole, so that the next one comes in meanwhile. The model has no part in this.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

from mer_worker.blobs import require_digest
from mer_worker.failures import Failure, error_frame
from mer_worker.wire import Flag, Kind, WireError, frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Optional

    from mer_worker.blobs import Blobs, Part
    from mer_worker.channel import Channel
    from mer_worker.claims import Claims
    from mer_worker.wire import Frame

MOST_DIGESTS = 4096
"""Of one `have`."""

MOST_PARTS = 8
"""Blobs that one driver brings in at once: each is an open file and what was received of it last."""

MOST_WAITING_BYTES = 8 << 20
"""Bodies that wait for the disk: enough to go on receiving while one is written, and no gigabyte on a slow disk."""

MOST_WAITING = 4096
"""Frames that wait, most of them for the sync of a small file before them."""


class Intake:
    """The thread, and what it is at."""

    def __init__(self, opened: Callable[[], tuple[Blobs, Claims]], answers: Channel) -> None:
        """Answer over the channel; `opened` opens what blobs go to, or raises Failure."""
        self._opened = opened
        self._answers = answers
        self._frames: SimpleQueue[Frame] = SimpleQueue()
        self._room = threading.Condition()
        self._bytes = self._count = 0
        self._parts: dict[int, Part] = {}
        self._newest = 0
        """The newest request that began to put; frames of an older one that is not open are of one that is over."""
        self._thread: Optional[threading.Thread] = None
        self._whole: SimpleQueue[tuple[int, Part]] = SimpleQueue()
        self._ending = threading.Semaphore(MOST_PARTS)
        """One for each blob that has all its bytes and no name yet."""

    def put(self, received: Frame) -> None:
        """Hand a frame on; waits while the disk is behind. One thread at a time, in the order of the stream."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mer-intake", daemon=True)
            self._thread.start()
            threading.Thread(target=self._keep, name="mer-keeping", daemon=True).start()
        with self._room:
            while self._count >= MOST_WAITING or (
                self._bytes and self._bytes + len(received.body) > MOST_WAITING_BYTES
            ):
                self._room.wait()
            self._bytes += len(received.body)
            self._count += 1
        self._frames.put(received)

    def _run(self) -> None:
        while True:
            received = self._frames.get()
            size = len(received.body)
            try:
                self._take(received)
            except OSError:  # nobody reads the answers: the listening thread finds the end of the stream
                pass
            del received
            with self._room:
                self._bytes -= size
                self._count -= 1
                self._room.notify()

    def _take(self, received: Frame) -> None:
        request = received.request
        try:
            if received.kind == Kind.HAVE:
                fields = self._have(received.fields())
            elif received.kind == Kind.PUT:
                self._put(received)
                return
            else:
                self._cancel(request)
                return
        except WireError as error:
            self._end(request, Failure("input", "input-invalid", str(error)))
        except Failure as failure:
            self._end(request, failure)
        else:
            self._answers.send(frame(Kind.RESULT, fields, request=request))

    def _have(self, fields: dict[str, Any]) -> dict[str, object]:
        digests = fields.get("digests")
        if type(digests) is not list or len(digests) > MOST_DIGESTS:
            raise Failure("input", "input-invalid", f"digests are a list of at most {MOST_DIGESTS}")
        for digest in digests:
            require_digest(digest)
        blobs, claims = self._opened()
        with claims.looking(digests):
            missing = [digest for digest in dict.fromkeys(digests) if not blobs.has(digest)]
            partial = {digest: size for digest in missing if (size := blobs.partial(digest))}
        return {"missing": missing, "partial": partial}

    def _put(self, received: Frame) -> None:
        """Take one frame of a blob; after the last one it is verified and kept. Raises: Failure, WireError."""
        request = received.request
        part = self._parts.get(request)
        if part is None:
            if request <= self._newest:
                return  # what was under way when its request failed, or was cancelled
            self._newest = request
            part = self._begin(request, received.fields())
        part.write(received.body)
        if received.flags & Flag.MORE:
            return
        self._ending.acquire()
        del self._parts[request]
        self._whole.put((request, part))

    def _keep(self) -> None:
        while True:
            request, part = self._whole.get()
            try:
                part.finish()
            except Failure as failure:
                answer = error_frame(failure, request)
            else:
                answer = frame(Kind.RESULT, {}, request=request)
            finally:
                self._ending.release()
            try:
                self._answers.send(answer)
            except OSError:  # nobody reads the answers any more
                pass

    def _begin(self, request: int, fields: dict[str, Any]) -> Part:
        if len(self._parts) >= MOST_PARTS:
            raise Failure("busy", "too-many-parts", f"{MOST_PARTS} blobs come in already: their last frames first")
        digest, size, offset = fields.get("digest"), fields.get("size"), fields.get("offset", 0)
        part = self._opened()[0].begin(digest, size, offset)  # type: ignore[arg-type]  # it looks itself
        self._parts[request] = part
        return part

    def _cancel(self, request: int) -> None:
        if request in self._parts:
            self._end(request, Failure("cancelled", "cancelled", "cancelled while a blob came in"))

    def _end(self, request: int, failure: Failure) -> None:
        part = self._parts.pop(request, None)
        if part is not None:
            part.close()
        self._answers.send(error_frame(failure, request))
