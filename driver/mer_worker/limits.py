"""The limits of a version, held here, where the model runs, whatever the driver does meanwhile.

Three ways, since no single one holds all of them. The kernel refuses (open files; more memory at once than the limit
allows): the handler gets the error, and the worker goes on. A thread looks on (wall and CPU time of each request, memory,
processes): it interrupts what takes too long, and ends the worker whose memory or processes are beyond their limit, since
neither goes away by an exception. The kernel kills (CPU time, while C code holds Python's lock): the signal tells why.
Whichever way, the error that goes back names the limit.
"""

from __future__ import annotations

import errno
import math
import os
import sys
import threading
import time

from mer_worker.failures import Failure, error_frame, traceback_of
from mer_worker.processes import descendants, memory_of, processor_seconds_of
from mer_worker.wire import MAX_REQUEST_LOG_BYTES, WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

    from mer_worker.conversation import Conversation

LOOK_SECONDS = 0.05
"""How often it is looked. A model that fills memory as fast as the kernel gives it gets a few hundred MB in that time."""

MOST_OF_TIME = 20
"""Processes are counted again after so many times as long as that took, on a machine with many: at most 5 % of a CPU."""

GRACE = 1.0
"""Seconds after each interrupt of a request that takes too long; after two the worker ends."""

SEND_SECONDS = 1.0
"""How long the last words may take: a driver that does not read any more must not keep a worker alive."""

ROOM_BYTES = 512 << 20
"""What a process may map beyond the memory limit, at least: stacks and arenas that are mapped and hardly touched."""

_FILES_OF_OURS = 16
"""Files beyond the limit, to tell that it was reached."""

CPU_ROOM = 1
"""Seconds of CPU after which the kernel ends a worker that no interrupt has stopped."""

_MOST_EXCEEDED = 1024
"""Requests that are being stopped at a time: as many as may be in flight."""

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

    @property
    def watched(self) -> bool:
        """Whether somebody has to look on."""
        return any(limit is not None for limit in (self.wall, self.cpu, self.memory, self.processes))

    def apply(self) -> None:
        """Tell the kernel what it can hold by itself."""
        if self.open_files is None and self.memory is None and self.cpu is None:
            return
        import resource

        if self.open_files is not None:
            _lower(resource.RLIMIT_NOFILE, self.open_files)
        if self.memory is not None:
            _lower(resource.RLIMIT_DATA, self.memory + max(self.memory, ROOM_BYTES))
        if self.cpu is not None:
            _lower(resource.RLIMIT_CORE, 0)  # SIGXCPU would leave one

    def stopped(self, request: int) -> Failure:
        """Return why a request was interrupted: for a limit, or because it was cancelled."""
        return self.exceeded.pop(request, None) or Failure("cancelled", "cancelled", "cancelled")

    def refused(self, error: BaseException) -> Optional[Failure]:
        """Return the failure where what the handler raised is a limit that the kernel has held; else None."""
        step: Optional[BaseException] = error
        for _ in range(8):  # an author may have wrapped it
            if step is None:
                break
            if self.memory is not None and isinstance(step, MemoryError):
                text = f"the model asked for more memory than its limit of {self.memory} bytes leaves: {step}"
                return Failure("limit", "memory", text.rstrip(": "), traceback_of(error))
            if self.open_files is not None and isinstance(step, OSError) and step.errno == errno.EMFILE:
                return self._too_many_files(self.open_files, step, error)
            step = step.__cause__ or step.__context__
        return None

    def _too_many_files(self, most: int, step: OSError, error: BaseException) -> Failure:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = soft + _FILES_OF_OURS
        _lower(resource.RLIMIT_NOFILE, room if hard == resource.RLIM_INFINITY else min(room, hard))
        try:  # a traceback reads the lines that it shows
            text = f"the model has as many files open as its limit of {most} allows: {step}"
            return Failure("limit", "open-files", text, traceback_of(error))
        finally:
            _lower(resource.RLIMIT_NOFILE, soft)


class Watch:
    """The thread that looks on."""

    def __init__(self, limits: Limits, conversation: Conversation) -> None:
        self._limits = limits
        self._conversation = conversation
        self._loaded = False
        self._since: dict[int, float] = {}
        """CPU seconds at which a request was first seen."""
        self._interrupts: dict[int, tuple[int, float]] = {}
        """How often a request was interrupted, and when next."""
        self._members: list[int] = []
        self._next_count = 0.0
        self._armed_for: Optional[set[int]] = None
        """Requests for which the kernel was told its limit last."""

    def start(self) -> None:
        """Begin to look; wall and CPU time count once the model is loaded."""
        threading.Thread(target=self._run, name="mer-limits", daemon=True).start()

    def loaded(self) -> None:
        """Say that what runs from now on are requests."""
        if self._limits.cpu is not None:
            self._tell_kernel(self._limits.cpu, [])
        self._loaded = True

    def _run(self) -> None:
        while True:
            try:
                self._look(time.monotonic())
            except OSError:  # a process that went while it was looked at
                pass
            time.sleep(LOOK_SECONDS)

    def _look(self, now: float) -> None:
        limits = self._limits
        running = self._conversation.pulse.running()
        if limits.processes is not None or limits.memory is not None or limits.cpu is not None:
            self._count(now)
        if limits.processes is not None and len(self._members) > limits.processes:
            self._end("processes", f"the model has {len(self._members)} processes; its limit is {limits.processes}")
        if limits.memory is not None:
            self._weigh(limits.memory)
        if self._loaded:
            for request, since in running:
                self._time(request, now - since)
            if limits.cpu is not None:
                self._tell_kernel(limits.cpu, running)
        alive = {request for request, _since in running}
        for seen in (self._since, self._interrupts):
            for request in [request for request in seen if request not in alive]:
                del seen[request]

    def _count(self, now: float) -> None:
        """Look for what the worker has started; seldom, where that takes long."""
        if now < self._next_count:
            return
        self._members = descendants(os.getpid())
        self._next_count = now + MOST_OF_TIME * (time.monotonic() - now)

    def _weigh(self, most: int) -> None:
        """End the worker if its memory is beyond the limit."""
        own = memory_of(os.getpid())
        if own + sum(map(memory_of, self._members)) <= most:
            return
        # what a fork shares with its parent was counted twice: now exactly, which takes longer
        held = memory_of(os.getpid(), exact=True) + sum(memory_of(pid, exact=True) for pid in self._members)
        if held > most:
            with_children = f" with its {len(self._members)} processes" if self._members else ""
            self._end("memory", f"the worker{with_children} held {held} bytes of memory; the limit is {most}")

    def _time(self, request: int, wall: float) -> None:
        limits = self._limits
        if limits.wall is not None and wall > limits.wall:
            self._stop(request, "wall", f"the run took longer than its limit of {limits.wall:g} s")
        elif limits.cpu is not None and self._used(request) > limits.cpu:
            self._stop(request, "cpu", f"the run used more CPU time than its limit of {limits.cpu:g} s")

    def _used(self, request: int) -> float:
        """Return the CPU seconds of a request: its thread's, where it has one, else those of all since it began."""
        thread_of = self._conversation.pulse.thread_of
        thread = 0 if thread_of is None else thread_of(request)
        if thread:
            seconds = time.clock_gettime(time.pthread_getcpuclockid(thread))
        else:
            children = os.times()
            seconds = time.process_time() + children.children_user + children.children_system
            seconds += sum(map(processor_seconds_of, self._members))
        return seconds - self._since.setdefault(request, seconds)

    def _stop(self, request: int, limit: str, message: str) -> None:
        """Interrupt a request; the second time was the last one."""
        times, due = self._interrupts.get(request, (0, 0.0))
        now = time.monotonic()
        if now < due:
            return
        if times == 2:
            self._end(limit, f"{message}, and it did not let itself be stopped", of=request)
        self._interrupts[request] = (times + 1, now + GRACE)
        exceeded = self._limits.exceeded
        if len(exceeded) >= _MOST_EXCEEDED:  # of requests that were done before the interrupt came
            exceeded.clear()
        exceeded[request] = Failure("limit", limit, message)
        self._conversation.interrupts.cancel(request)

    def _tell_kernel(self, cpu: float, running: list[tuple[int, float]]) -> None:
        """Let the kernel end this process by SIGXCPU when it has used far more than the limit leaves it."""
        import resource

        requests = {request for request, _since in running}
        if self._armed_for == requests:
            return
        self._armed_for = requests
        used = time.process_time()
        _lower(resource.RLIMIT_CPU, math.ceil(used + max(1, len(requests)) * cpu) + CPU_ROOM)

    def _end(self, limit: str, message: str, of: int = 0) -> None:
        """Say why, and end the worker. `of`: the request at fault; the others are lost with it."""
        failure, lost = (
            Failure("limit", limit, message),
            Failure("lost", "limit", f"another request's fault: {message}"),
        )
        failure.ends = True
        running = self._conversation.pulse.running()

        def tell() -> None:
            for request, _since in running:
                mine = of in (0, request)
                self._conversation.channel.send(error_frame(failure if mine else lost, request))

        teller = threading.Thread(target=tell, daemon=True)
        teller.start()
        teller.join(SEND_SECONDS)
        sys.stderr.flush()
        self._conversation.ending.now()


def _seconds(milliseconds: Optional[int]) -> Optional[float]:
    return None if milliseconds is None else milliseconds / 1e3


def _lower(kind: int, value: int) -> None:
    """Set a soft limit of this process, as far as the hard one allows."""
    import resource

    _soft, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    try:
        resource.setrlimit(kind, (value, hard))
    except (OSError, ValueError):  # a kernel that does not know it: the watching thread is left
        pass
