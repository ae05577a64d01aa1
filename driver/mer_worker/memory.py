"""The memory that a driver and a worker on one machine share (docs/wire.md, "Shared memory").

Two files without a name, inherited by the worker: one written by the driver and read by the worker, one the other way
round. Who writes a file says what lies where in it; who reads a segment gives it back by a byte in the file's table. So
neither waits for the other, and whatever a broken worker does there spoils what it was given or gives, and no bookkeeping.
"""

from __future__ import annotations

import mmap
import os
import threading
from _ctypes import _SimpleCData, addressof
from _weakref import ref
from collections import deque

from mer_worker.extents import Extents
from mer_worker.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Optional, Union

    Bytes = Union[bytes, bytearray, memoryview]

GRAIN = 64 << 10
"""Segments begin at multiples of this; a file's table has one byte for each. 1 GiB has a table of 16 KiB."""

LEAST_BYTES = 1 << 20
MOST_BYTES = 1 << 36
"""Of one file. 64 GiB: what a table of a megabyte covers."""

KEPT_BYTES = 128 << 20
"""Pages of one file that stay for the next large tensor, however long it takes to come: filling new ones costs more than
twice the copy. What is beyond goes back when it was not used for a period."""

_AT_ONCE_BYTES = 1 << 20
"""What is filled with pages while others wait: a millisecond."""

_STEP_BYTES = 16 << 20
"""Pages given back at a time: a few milliseconds, for which nothing else of the process runs."""


class _Byte(_SimpleCData):  # type: ignore[type-arg]
    """An array of these is an exporter of memory that a weak reference can watch; ctypes itself costs a worker 1 MB."""

    _type_ = "B"


class _Watch(ref):  # type: ignore[type-arg]
    """Tells when the last view of a segment is gone. Its callback is C: no interrupt falls into the middle of it."""

    __slots__ = ("start",)
    start: int


def _anchored(memory: mmap.mmap, start: int, size: int, dead: deque[_Watch]) -> tuple[_Watch, memoryview]:
    """Return a view, and what is appended to `dead` when all views made from it are gone."""
    anchor = (_Byte * size).from_buffer(memory, start)
    watch = _Watch(anchor, dead.append)
    watch.start = start
    return watch, memoryview(anchor).cast("B")


def data_start(size: int) -> int:
    """Return where segments may begin in a file of `size` bytes: after its table."""
    table = -(-size // GRAIN)
    return table + -table % GRAIN


class TheirFile:
    """The file that the other side writes."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the file.

        Raises:
            OSError, ValueError: it cannot be mapped.
        """
        self.size = size
        self.dead: deque[_Watch] = deque()
        """Segments whose last view is gone, and which `settle` gives back."""
        self._first = data_start(size)
        self._map = mmap.mmap(descriptor, size)
        self._held: dict[int, _Watch] = {}
        self._process = os.getpid()

    @property
    def held(self) -> int:
        """How many segments somebody still looks at, or has just let go."""
        return len(self._held)

    def claim(self, start: int, size: int) -> memoryview:
        """Return a writable view of a segment; it is given back once nothing looks at it any more.

        Raises:
            WireError: no segment can lie there.
        """
        self._check(start, size)
        watch, view = _anchored(self._map, start, size, self.dead)
        self._held[start] = watch
        return view

    def array(self, kind: Any, shape: tuple[int, ...], dtype: Any, start: int, size: int) -> Any:
        """Return a segment as an array of numpy, as `claim` does: `kind` is its class, and what it is a view of says nothing.

        Raises:
            WireError: no segment can lie there.
        """
        self._check(start, size)
        array = kind(shape, dtype, self._map, start)
        self._held[start] = watch = _Watch(array, self.dead.append)  # each view of it holds the array itself
        watch.start = start
        return array

    def _check(self, start: int, size: int) -> None:
        if start % GRAIN or start < self._first or size < 1 or start + size > self.size:
            raise WireError(f"a segment of {size} bytes at {start}, in a memory of {self.size}")
        if self.dead:
            self.settle()

    def settle(self) -> None:
        """Give back the segments that nobody looks at any more."""
        while self.dead:
            try:
                watch = self.dead.popleft()
            except IndexError:  # another thread was faster
                return
            if self._held.get(watch.start) is watch:
                del self._held[watch.start]
                if self._process == os.getpid():  # else a fork of it has let go, and the process itself has not
                    self._map[watch.start // GRAIN] = 1

    def close(self) -> None:
        """Let the file go; what is still looked at stays until it is not."""
        self._held.clear()
        self.dead.clear()
        # never `mmap.close()`: numpy's arrays hold the mapping without an export, so that it would go from under them
        self.__dict__.pop("_map", None)


class OwnFile:
    """The file that this side writes. Safe to be used by several threads."""

    def __init__(self, descriptor: int, size: int) -> None:
        """Map the file; the descriptor is this object's from now on.

        Raises:
            OSError, ValueError: it cannot be mapped.
        """
        self.returned: deque[int] = deque()
        """Places that were taken and then not sent."""
        self._map = mmap.mmap(descriptor, size)
        self._descriptor = descriptor
        self._address = addressof(_Byte.from_buffer(self._map))
        self._size = size
        self._extents = Extents(data_start(size), size, GRAIN)
        self._sent: set[int] = set()
        self._high = 0
        """How much of the table there is to look at."""
        self._lent: dict[int, _Watch] = {}
        self._dead: deque[_Watch] = deque()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._has_pages = bytearray(-(-size // GRAIN))
        self._reached = self._keep = 0
        """How far up it was used in this period, and in the one before."""

    @property
    def used(self) -> int:
        """Bytes of what is taken, sent and not given back, or lent."""
        with self._lock:
            self._collect()
            return self._extents.used

    @property
    def filled(self) -> int:
        """Bytes that have pages."""
        return self._has_pages.count(1) * GRAIN

    @property
    def beyond(self) -> bool:
        """Whether there are pages that another period without use would give back."""
        return self._has_pages.find(1, (data_start(self._size) + KEPT_BYTES) // GRAIN) >= 0

    def take(self, size: int) -> Optional[int]:
        """Return a place for `size` bytes, or None where there is none. It may lack pages: see `fill`."""
        if self._process != os.getpid():  # a fork: the places are its parent's
            return None
        with self._lock:
            self._collect()
            if self._descriptor < 0:
                return None
            start = self._extents.take(size)
            if start is not None:
                self._reached = max(self._reached, start + size)
            return start

    def lacks_pages(self, start: int, size: int) -> bool:
        """Whether writing there would ask the kernel for memory."""
        return self._has_pages.find(0, start // GRAIN, -(-(start + size) // GRAIN)) >= 0

    def fill(self, start: int, size: int) -> None:
        """Give a taken place its pages: without them a write into it is SIGBUS where there is no memory left.

        Raises:
            OSError: there is no memory left.
        """
        with self._lock:
            if self._descriptor < 0:
                raise OSError("the memory was closed")
            descriptor = os.dup(self._descriptor)  # this may be a thread of its own, and outlive `close`
        try:
            os.posix_fallocate(descriptor, start, size + -size % GRAIN)
        finally:
            os.close(descriptor)
        for grain in range(start // GRAIN, -(-(start + size) // GRAIN)):
            self._has_pages[grain] = 1

    def write(self, start: int, segment: Bytes) -> None:
        """Copy bytes to a place that was taken and filled."""
        self._map[start : start + len(segment)] = segment

    def put(self, segment: Bytes) -> Optional[int]:
        """Copy a segment into the file, and return where it lies; None where there is no room or no memory for it."""
        size = len(segment)
        start = self.take(size)
        if start is None:
            return None
        if self.lacks_pages(start, size):
            try:
                self.fill(start, size)
            except OSError:
                self.returned.append(start)
                return None
        self.write(start, segment)
        return start

    def put_at_once(self, segment: Any, size: int) -> Optional[int]:
        """Put a segment into a place, as the receiver's; None where there is none, or many pages would be waited for.

        Raises:
            IndexError, TypeError, ValueError, BufferError: the segment is not contiguous, or of another size.
        """
        if self._lent:  # it may lie here already
            return None
        start = self.take(size)
        if start is None:
            return None
        sent = False
        try:
            if self._has_pages.find(0, start // GRAIN, -(-(start + size) // GRAIN)) >= 0:
                if size > _AT_ONCE_BYTES:
                    return None
                self.fill(start, size)
            self._map[start : start + size] = segment
            self.sent((start,))
            sent = True
        except OSError:  # there is no memory left
            return None
        finally:
            if not sent:
                self.returned.append(start)
        return start

    def sent(self, starts: Sequence[int]) -> None:
        """Say that these places belong to the receiver now."""
        with self._lock:
            for start in starts:
                self._sent.add(start)
                self._high = max(self._high, start // GRAIN + 1)

    def lend(self, size: int) -> Optional[memoryview]:
        """Return a writable view of a new place; None where there is none. It is free again once nothing looks at it."""
        start = self.take(size)
        if start is None:
            return None
        try:
            if self.lacks_pages(start, size):
                self.fill(start, size)
        except OSError:
            self.returned.append(start)
            return None
        self._lent[start], view = _anchored(self._map, start, size, self._dead)
        return view

    def lent_at(self, segment: Bytes) -> Optional[int]:
        """Return where a segment lies, if it begins where a lent place does."""
        if not self._lent or type(segment) is not memoryview or segment.readonly:
            return None
        start = addressof(_Byte.from_buffer(segment)) - self._address
        return start if start in self._lent else None

    def hold(self, start: int) -> Optional[_Watch]:
        """Return the watch of a lent place, whose death frees nothing from now on; None while another thread holds it."""
        with self._lock:
            return self._lent.pop(start, None)

    def let(self, start: int, watch: _Watch) -> None:
        """Have the death of a lent place free it again; it may have died meanwhile."""
        with self._lock:
            self._lent[start] = watch
            if watch() is None:
                self._dead.append(watch)

    def at(self, start: int, size: int) -> memoryview:
        """Return a view that nothing watches."""
        return memoryview(self._map)[start : start + size]

    def age(self) -> None:
        """End a period."""
        with self._lock:
            self._collect()
            self._keep = max(data_start(self._size) + KEPT_BYTES, self._reached)
            self._reached = max((start + size for start, size in self._extents.taken.items()), default=0)

    def shrink(self) -> bool:
        """Give the system some pages back that were not used for a period, and return whether there may be more."""
        with self._lock:
            if self._descriptor < 0:
                return False
            for begin, end in self._extents.free():
                begin = max(begin, self._keep + -self._keep % GRAIN)
                first = self._has_pages.find(1, begin // GRAIN, end // GRAIN) if begin < end else -1
                if first < 0:
                    continue
                last = min(end // GRAIN, first + _STEP_BYTES // GRAIN)
                try:
                    self._map.madvise(mmap.MADV_REMOVE, first * GRAIN, (last - first) * GRAIN)
                except OSError:  # this kernel cannot: they stay
                    return False
                self._has_pages[first:last] = bytes(last - first)
                return True
            return False

    def close(self) -> None:
        """Let the file go; what was lent stays until nobody looks at it."""
        with self._lock:
            if self._descriptor < 0:
                return
            os.close(self._descriptor)
            self._descriptor = -1
            self._lent.clear()
            del self._map  # the last view ends it

    def _collect(self) -> None:
        """Free what was given back, what was not sent after all, and what was lent and let go. The lock is held."""
        table: Any = b"" if self._descriptor < 0 else self._map[: self._high]
        at = table.find(1)
        while at >= 0:
            self._map[at] = 0  # before the place is taken again
            if at * GRAIN in self._sent:
                self._sent.discard(at * GRAIN)
                self._extents.give(at * GRAIN)
            at = table.find(1, at + 1)
        if not self._sent:
            self._high = 0
        while self.returned:
            self._extents.give(self.returned.popleft())
        while self._dead:
            watch = self._dead.popleft()
            if self._lent.get(watch.start) is watch:
                del self._lent[watch.start]
                self._extents.give(watch.start)


def open_files(descriptors: Sequence[int]) -> tuple[TheirFile, OwnFile]:
    """Map and return the two files as the worker sees them, the driver's and its own; the descriptors are taken over.

    Raises:
        OSError, ValueError: they cannot be mapped.
    """
    driver, worker = descriptors
    try:
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
        if not all(LEAST_BYTES <= size <= MOST_BYTES for size in sizes):
            raise ValueError(f"files of {sizes} bytes")
        os.set_inheritable(worker, False)
        return TheirFile(driver, sizes[0]), OwnFile(worker, sizes[1])
    except BaseException:
        os.close(worker)
        raise
    finally:
        os.close(driver)
