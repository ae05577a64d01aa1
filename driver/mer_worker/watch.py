"""The thread that looks on, and holds those limits of a version which the kernel cannot (mer_worker.limits)."""

from __future__ import annotations

import math
import os
import sys
import threading
import time

from mer_worker.failures import Failure, error_frame
from mer_worker.limits import Limits, set_limit
from mer_worker.processes import descendants, memory_of, processor_seconds_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mer_worker.conversation import Conversation

LOOK_SECONDS = 0.05
"""How often it is looked. A model that fills memory as fast as the kernel gives it gets a few hundred MB in that time."""

MOST_OF_TIME = 20
"""Processes are counted again after so many times as long as that took, on a machine with many: at most 5 % of a CPU."""

GRACE = 1.0
"""Seconds after each interrupt of a request that takes too long; after two the worker ends."""

SEND_SECONDS = 1.0
"""How long the last words may take: a driver that does not read any more must not keep a worker alive."""

CPU_ROOM = 1
"""Seconds of CPU after which the kernel ends a worker that no interrupt has stopped."""

_MOST_EXCEEDED = 1024
"""Requests that are being stopped at a time: as many as may be in flight."""


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

    def start(self) -> None:
        """Begin to look; wall and CPU time count once the model is loaded."""
        threading.Thread(target=self._run, name="mer-limits", daemon=True).start()

    def loaded(self) -> None:
        """Say that what runs from now on are requests."""
        if self._limits.cpu is not None:
            _tell_kernel(self._limits.cpu, 0)
        self._loaded = True

    def _run(self) -> None:
        while True:
            try:
                self._look(time.monotonic())
            except (OSError, MemoryError):  # the model has left none to look with
                self._look_again()
            time.sleep(LOOK_SECONDS)

    def _look_again(self) -> None:
        try:
            with self._limits.room:
                self._look(time.monotonic())
        except (OSError, MemoryError):  # or a process went while it was looked at: next time, then
            pass

    def _look(self, now: float) -> None:
        limits = self._limits
        running = self._conversation.pulse.running()
        if limits.full:
            self._end("memory", limits.full)
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
                # anew each time: whenever this thread gets to run, it holds the limit of each request itself
                _tell_kernel(limits.cpu, len(running))
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

    def _end(self, limit: str, message: str, of: int = 0) -> None:
        """Say why, and end the worker. `of`: the request at fault; the others are lost with it."""
        failure, lost = (
            Failure("limit", limit, message),
            Failure("lost", "limit", f"another request's fault: {message}"),
        )
        failure.ends = True
        running = self._conversation.pulse.running()

        def tell() -> None:
            for request, since in running:
                mine, ran = of in (0, request), int(1e6 * (time.monotonic() - since))
                self._conversation.channel.send(error_frame(failure if mine else lost, request, number=ran))

        try:
            with self._limits.room:
                teller = threading.Thread(target=tell, daemon=True)
                teller.start()
                teller.join(SEND_SECONDS)
                sys.stderr.flush()
        finally:  # where no thread can be started any more, the end has to tell enough
            self._conversation.ending.now()


def _tell_kernel(cpu: float, running: int) -> None:
    """Let the kernel end this process by SIGXCPU when it has used far more than the limit leaves so many requests."""
    import resource

    set_limit(resource.RLIMIT_CPU, math.ceil(time.process_time() + max(1, running) * cpu) + CPU_ROOM)
