"""The limits of a version, held here, where the model runs, whatever the driver does meanwhile.

Three ways, since no single one holds all of them. The kernel refuses (open files; more memory at once than the limit
allows): the handler gets the error, and the worker goes on. A thread looks on (mer_worker.watch: wall and CPU time of each
request, memory, processes): it interrupts what takes too long, and ends the worker whose memory or processes are beyond
their limit, since neither goes away by an exception. The kernel kills (CPU time, while C code holds Python's lock): the
signal tells why. Whichever way, the error that goes back names the limit.
"""

from __future__ import annotations

import errno
import threading

from mer_worker.failures import Failure, of_model, traceback_of
from mer_worker.wire import MAX_REQUEST_LOG_BYTES, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

ROOM_BYTES = 512 << 20
"""What a process may map beyond the memory limit, at least: arenas that are mapped and hardly touched."""

STACK_BYTES = 8 << 20
"""Of a thread, where nobody has said how large its stack is."""

FILES_OF_OURS = 16
BYTES_OF_OURS = 64 << 20
"""Beyond the limits, to look whether they are kept, and to tell that one was reached: a thread's stack, and a traceback."""

NAMES = ("wall_ms", "memory_bytes", "cpu_ms", "open_files", "processes", "log_bytes")


class Limits:
    """What a load frame's `limits` say; without it nothing is limited."""

    def __init__(self, given: Optional[Mapping[str, Any]] = None) -> None:
        """Read them.

        Raises:
            WireError: one of them is no integer of 0 or more.
        """
        given = {} if given is None else given
        for name in NAMES:
            value = given.get(name)
            if value is not None and (type(value) is not int or value < 0):
                raise WireError(f"the limit {name} is an integer of 0 or more")
        self.wall = _seconds(given.get("wall_ms"))
        self.cpu = _seconds(given.get("cpu_ms"))
        self.memory: Optional[int] = given.get("memory_bytes")
        self.open_files: Optional[int] = given.get("open_files")
        self.processes: Optional[int] = given.get("processes")
        log_bytes = given.get("log_bytes")
        self.log_bytes: int = MAX_REQUEST_LOG_BYTES if log_bytes is None else min(log_bytes, MAX_REQUEST_LOG_BYTES)
        self.exceeded: dict[int, Failure] = {}
        """Requests that are being stopped for a limit."""
        self.full = ""
        """Why the worker is of no use any more: what the model has kept leaves no memory for the next request."""
        self.room = Room(files=self.open_files is not None, memory=self.memory is not None)

    @property
    def watched(self) -> bool:
        """Whether somebody has to look on."""
        return any(limit is not None for limit in (self.wall, self.cpu, self.memory, self.processes))

    def apply(self, threads: int = 1) -> None:
        """Tell the kernel what it can hold by itself, where so many threads serve requests."""
        if self.open_files is None and self.memory is None and self.cpu is None:
            return
        import resource

        if self.open_files is not None:
            _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            most = self.open_files if hard == resource.RLIM_INFINITY else hard - FILES_OF_OURS  # else there is no room
            set_limit(resource.RLIMIT_NOFILE, min(self.open_files, most))
        if self.memory is not None:
            stack, _hard = resource.getrlimit(resource.RLIMIT_STACK)
            stacks = threads * (
                STACK_BYTES if stack == resource.RLIM_INFINITY else stack
            )  # mapped whole, hardly touched
            set_limit(resource.RLIMIT_DATA, self.memory + max(self.memory, ROOM_BYTES) + stacks)
        if self.cpu is not None:
            set_limit(resource.RLIMIT_CORE, 0)  # SIGXCPU would leave one

    def stopped(self, request: int) -> Failure:
        """Return why a request was interrupted: for a limit, or because it was cancelled."""
        return self.exceeded.pop(request, None) or Failure("cancelled", "cancelled", "cancelled")

    def failure(self, error: BaseException, kind: str, doing: str) -> Failure:
        """Return the failure that the author's code has raised while `doing` something.

        It is a limit's where that is one that the kernel has held, else the author's own.
        """
        if isinstance(error, MemoryError):
            _let_go(error)
        with self.room:  # a traceback is imported, and reads the lines that it shows
            failure = self._refused(error) or of_model(error, kind, doing)
        if failure.code == "memory" and failure.kind == "limit" and _is_full():
            self.full = failure.message
            failure.ends = True
        return failure

    def _refused(self, error: BaseException) -> Optional[Failure]:
        step: Optional[BaseException] = error
        for _ in range(8):  # an author may have wrapped it
            if step is None:
                break
            if self.memory is not None and isinstance(step, MemoryError):
                text = f"the model asked for more memory than its limit of {self.memory} bytes leaves: {step}"
                return Failure("limit", "memory", text.rstrip(": "), traceback_of(error))
            if self.open_files is not None and isinstance(step, OSError) and step.errno == errno.EMFILE:
                text = f"the model has as many files open as its limit of {self.open_files} allows: {step}"
                return Failure("limit", "open-files", text, traceback_of(error))
            step = step.__cause__ or step.__context__
        return None


class Room:
    """A stretch in which this process has a few files and bytes more than the limits that the kernel holds.

    The model's other threads have them too: what they take is little, and gone with them.
    """

    def __init__(self, *, files: bool, memory: bool) -> None:
        self._files = files
        self._memory = memory
        self._lock = threading.Lock()
        self._inside = 0
        self._before: list[tuple[int, int]] = []
        """Resources, and the limits that they had."""

    def __enter__(self) -> None:
        if not (self._files or self._memory):
            return
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                import resource

                if self._files:
                    self._raise(resource.RLIMIT_NOFILE, FILES_OF_OURS)
                if self._memory:
                    self._raise(resource.RLIMIT_DATA, BYTES_OF_OURS)

    def __exit__(self, *_error: object) -> None:
        if not (self._files or self._memory):
            return
        with self._lock:
            self._inside -= 1
            if not self._inside:
                while self._before:
                    set_limit(*self._before.pop())

    def _raise(self, kind: int, more: int) -> None:
        import resource

        soft, _hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            self._before.append((kind, soft))
            set_limit(kind, soft + more)


def _let_go(error: BaseException) -> None:
    """Free what the frames hold that an error has gone through: it is what the memory was used for."""
    step = error.__traceback__
    while step is not None:
        try:
            step.tb_frame.clear()
        except RuntimeError:  # it runs still: one of ours
            pass
        step = step.tb_next


def _is_full() -> bool:
    try:
        bytearray(BYTES_OF_OURS // 4)  # mapped, never touched
    except MemoryError:
        return True
    return False


def _seconds(milliseconds: Optional[int]) -> Optional[float]:
    return None if milliseconds is None else milliseconds / 1e3


def set_limit(kind: int, value: int) -> None:
    """Set a soft limit of this process, as far as the hard one allows."""
    import resource

    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    try:
        resource.setrlimit(kind, (value, hard))
    except (OSError, ValueError, OverflowError):  # a kernel that does not know it: the watching thread is left
        pass
