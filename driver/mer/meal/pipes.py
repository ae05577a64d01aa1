"""A stream over a child process's pipes, and the process itself."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from mer.meal.ends import FOR_MEMORY, describe, memory_kills
from mer.meal.memory import WorkerMemory
from mer.meal.reaping import wait, watch
from mer.meal.stream import Bytes, Reader, Receiver, Stream
from mer.meal.writer import Writer
from mer_worker.orphans import kill_group, sweep

_LOG_READ = 64 << 10
"""Bytes of the log read at a time: a pipe's capacity."""

_EXIT_SECONDS = 1.0
"""What a worker gets to exit after it has closed its output or its input."""

_LAST_READS = 1024
"""Reads of each pipe after the worker's end: what is left in it, not what a runaway grandchild still writes."""


class ControlStream:
    """The control channel: a socket pair whose other end the worker holds."""

    control: Stream | None = None
    memory: WorkerMemory | None = None
    without_memory = "it is the control channel"

    def __init__(self, loop: asyncio.AbstractEventLoop, end: socket.socket) -> None:
        self._loop = loop
        self._writer = Writer(loop, os.dup(end.fileno()))  # this may fail, and the socket is still its owner's then
        self._descriptor = end.detach()
        self._receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        """Begin to receive."""
        self._receiver = receiver
        self._loop.add_reader(self._descriptor, self._readable)

    def write(self, *pieces: Bytes) -> bool:
        """Send; frames of control are small and few."""
        return self._writer.write(*pieces)

    def write_frame(self, frame: bytes) -> bool:
        """Send one."""
        return self._writer.write_frame(frame)

    async def drain(self) -> None:
        """Wait until more may be written."""
        await self._writer.drain()

    async def flush(self) -> None:
        """Wait until nothing is kept."""
        await self._writer.drain(0)

    async def close(self, grace: float) -> int | None:  # noqa: ARG002 - it has no process of its own
        """Close this end."""
        self.kill()
        return None

    def kill(self) -> None:
        """Close this end."""
        self._writer.close()
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _readable(self) -> None:
        assert self._receiver is not None
        try:
            count = os.readv(self._descriptor, (self._receiver.get_buffer(),))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            self._receiver.buffer_updated(count)
        else:
            self.kill()  # the data stream tells the end


class ProcessStream:
    """A worker's stdin, stdout and stderr, and the process itself."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        control: socket.socket | None,
        *,
        marker: str,
        directory: Path,
        memory: WorkerMemory | None = None,
        without_memory: str = "",
    ) -> None:
        """Speak with a process that was started so; where that fails, all of it is still the caller's.

        Raises:
            OSError: no descriptor is left.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._loop = asyncio.get_running_loop()
        self._process = process
        self._pid = process.pid
        self._marker = marker
        self._directory = directory
        self._read, self._log = process.stdout.fileno(), process.stderr.fileno()
        for descriptor in (self._read, self._log, process.stdin.fileno()):
            os.set_blocking(descriptor, False)
        self._writer = Writer(self._loop, os.dup(process.stdin.fileno()), self._half_closed)
        self.write, self.write_frame = self._writer.write, self._writer.write_frame
        try:
            self.control: Stream | None = None if control is None else ControlStream(self._loop, control)
        except BaseException:
            self._writer.close()
            raise
        process.stdin.close()
        self.memory = memory
        self.without_memory = without_memory
        self._receiver: Receiver | None = None
        self._read_output: Callable[[int, Callable[[], None]], None] = self._readable
        self._open = {self._read, self._log}
        self._gone = asyncio.Event()
        self._clean: asyncio.Task[None] | None = None
        self._ended = False
        self._killed = False
        self._watched = False
        self._memory_kills = memory_kills()
        self.status: int | None = None

    @property
    def pid(self) -> int:
        """The worker's process number."""
        return self._pid

    def start(self, receiver: Receiver) -> None:
        """Begin to receive, and to watch for the worker's end: that first, since `close` waits for it."""
        self._receiver = receiver
        watch(self._loop, self._pid, self._exited)
        self._watched = True
        if isinstance(receiver, Reader):
            self._read_output = receiver.read_from
        self._loop.add_reader(self._read, self._read_output, self._read, self._output_ended)
        self._loop.add_reader(self._log, self._loggable)
        self._writer.watch()

    async def drain(self) -> None:
        """Wait until more may be written."""
        await self._writer.drain()

    async def flush(self) -> None:
        """Wait until nothing is kept."""
        await self._writer.drain(0)

    async def close(self, grace: float) -> int | None:
        """End the worker: EOF, SIGTERM, SIGKILL, each with `grace` seconds; then what it left."""
        self._writer.close()
        if not self._watched:  # it was never started
            self._watched = True
            self.kill()
            await _in_thread(functools.partial(wait, self._pid))
            self._exited()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not await self._wait(grace):
                self._signal(number)
        await self._gone.wait()
        if self._clean is not None:
            await asyncio.shield(self._clean)
        return self.status

    def kill(self) -> None:
        """Kill the worker's process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if not self._gone.is_set():  # afterwards the number may be another's
            self._killed = True
            kill_group(self._pid, number)

    async def _wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        except TimeoutError:
            return False
        return True

    def _readable(self, descriptor: int, ended: Callable[[], None]) -> None:
        receiver = self._receiver
        assert receiver is not None
        try:
            count = os.readv(descriptor, (receiver.get_buffer(),))
        except BlockingIOError:
            return
        if count:
            receiver.buffer_updated(count)
        else:
            ended()

    def _output_ended(self) -> None:
        self._shut(self._read)
        self._half_closed()

    def _half_closed(self) -> None:
        """See that a worker ends that has closed its output or its input only: it would leave every call waiting."""
        self._loop.call_later(_EXIT_SECONDS, self.kill)

    def _loggable(self) -> None:
        assert self._receiver is not None
        try:
            text = os.read(self._log, _LOG_READ)
        except BlockingIOError:
            return
        if text:
            self._receiver.log(text)
        else:
            self._shut(self._log)

    def _shut(self, descriptor: int) -> None:
        self._open.discard(descriptor)
        self._loop.remove_reader(descriptor)

    def _exited(self) -> None:
        """The process has ended and, as a rule, is not reaped yet: so its number is still its own."""
        try:
            found = os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:  # this program ignores SIGCHLD, or waits for just any child: the status is lost
            found = None
        if found is not None:
            kill_group(self._pid)
            self.status = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        self._gone.set()
        try:
            for descriptor in (self._log, self._read):
                self._read_the_rest(descriptor)
        finally:  # whatever a receiver of the last bytes raises: who waits for the end is told
            self._let_go(found)

    def _read_the_rest(self, descriptor: int) -> None:
        """Read what is left in a pipe, its answer perhaps."""
        for _ in range(_LAST_READS):
            if descriptor not in self._open or self._receiver is None or not _has_bytes(descriptor):
                return
            if descriptor == self._log:
                self._loggable()
            else:
                self._read_output(descriptor, self._output_ended)

    def _let_go(self, found: os.waitid_result | None) -> None:
        """Close everything, clean up, and tell the end."""
        for descriptor in list(self._open):
            self._shut(descriptor)
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdout.close()
        self._process.stderr.close()
        self._writer.close()
        if self.control is not None:
            self.control.kill()
        if self.memory is not None:
            self.memory.close()
        self._clean = self._loop.create_task(self._clean_up(0 if found is None else self._pid))
        if self._receiver is not None and not self._ended:
            self._ended = True
            reason = describe(self.status)
            if self.status == -signal.SIGKILL and not self._killed and memory_kills() > self._memory_kills:
                reason += f", as the kernel did {FOR_MEMORY}"
            self._receiver.ended(reason)

    async def _clean_up(self, leader: int) -> None:
        await _in_thread(functools.partial(sweep, self._marker, leader))
        self._process.wait()  # only now: the sweep goes by its number too
        await _in_thread(functools.partial(shutil.rmtree, self._directory, ignore_errors=True))


async def _in_thread(work: Callable[[], object]) -> None:
    """Do it in a thread; at once, where the loop is being closed and has no threads any more."""
    try:
        doing = asyncio.get_running_loop().run_in_executor(None, work)
    except RuntimeError:
        work()
    else:
        await doing


def _has_bytes(descriptor: int) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))
