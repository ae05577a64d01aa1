"""The worker's main thread: greets, loads, and hands what comes to whatever serves the model (mer_worker.serving)."""

from __future__ import annotations

import os
import sys
import threading

from mer_worker.channel import Channel
from mer_worker.context import Context
from mer_worker.control import Ending, Listener, Pulse
from mer_worker.conversation import Conversation
from mer_worker.decoder import Decoder
from mer_worker.failures import Failure, error_frame
from mer_worker.interrupts import Cancelled, Interrupts
from mer_worker.limits import Limits
from mer_worker.loading import load_fields
from mer_worker.logs import Logs
from mer_worker.outputs import Outputs
from mer_worker.runners import RUNNERS, Runner, load
from mer_worker.serving import Serving, serving
from mer_worker.serving.turn import Turn
from mer_worker.shared import CAPABILITY as SHARED_MEMORY
from mer_worker.shared import LAYOUT, Sharing
from mer_worker.source import SharedSource, StreamSource
from mer_worker.watch import Watch
from mer_worker.wire import (
    MAX_BODY_BYTES,
    MAX_HEAD_BYTES,
    OLDEST_VERSION,
    PREAMBLE,
    VERSION,
    BodyDropped,
    Flag,
    Frame,
    Kind,
    VersionMismatch,
    WireError,
    frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Optional, Union

    from mer_worker.cache import Cache


class Worker:
    """One conversation with one driver, and at most one loaded model."""

    def __init__(
        self,
        source: int,
        sink: int,
        control: Optional[int],
        *,
        marker: str,
        scratch: str,
        memory: Optional[Sequence[int]] = None,
        silence: float = 0.0,
        cache: str = "",
    ) -> None:
        """Speak over these descriptors; `memory` are those of two files that the driver has made to share.

        `silence`: the seconds after which a driver that says nothing is taken for gone, where there is one stream; 0: never.
        `cache`: the folder for what is pushed by digest; without it nothing is.
        """
        self._source = source
        self._sink = sink
        self._control = control
        channel, interrupts = Channel(sink), Interrupts()
        self._conversation = Conversation(
            channel, interrupts, Pulse(), Logs(channel, interrupts), Ending(marker, scratch)
        )
        self._decoder = Decoder(templates=self._conversation.incoming)
        self._memory: dict[str, object] = {}
        """What the hello says of shared memory."""
        if memory is not None:
            self._map(memory)
        self._channel = channel
        self._silence = silence
        self._cache: Optional[Cache] = None
        if cache:
            from mer_worker.cache import Cache  # and the threads that it needs: for a worker on a far host only

            self._cache = Cache(cache, marker, channel)
        self._turn = Turn(self._conversation)
        self._runner: Optional[Runner] = None
        self._serving: Optional[Serving] = None

    def run(self) -> int:
        """Serve until the driver says shutdown or is gone; return the exit status."""
        conversation = self._conversation
        conversation.interrupts.install()
        conversation.logs.install()
        hooks = [self._forked]
        os.register_at_fork(after_in_child=lambda: [hook() for hook in hooks])
        try:
            self._channel.send(PREAMBLE, frame(Kind.HELLO, self._hello()))
            conversation.source = self._open()
            if self._converse():
                drive = getattr(self._serving, "drive", None)
                if drive is not None:
                    drive(self._converse)  # the main thread is the model's; another one reads on
        except WireError as error:
            code = "version" if isinstance(error, VersionMismatch) else "bad-frame"
            self._channel.send(error_frame(Failure("protocol", code, str(error)), 0))
            return 1
        except BrokenPipeError:  # the driver is gone
            conversation.ending.now()
        finally:
            hooks.clear()  # what the interpreter held by them would die after it: Python 3.9 crashes at a Popen that does
            if self._serving is not None:
                self._serving.close()
            if self._runner is not None:
                self._runner.close()
        return 0

    def _converse(self) -> bool:
        """Take frames until the conversation is over; True where it goes on, and what serves wants this thread."""
        for received in self._conversation.frames():
            if received.kind == Kind.INFER and self._serving is not None:
                if received.flags & Flag.MORE and Kind.PART not in self._serving.kinds:
                    text = "a model that takes batches takes no inputs in parts"
                    failure = Failure("input", "takes-whole-inputs", text)
                    self._channel.send(error_frame(failure, received.request))
                else:
                    self._serving.infer(received)
            elif not self._other(received):
                return False
            elif received.kind == Kind.LOAD and hasattr(self._serving, "drive"):
                return True
        return False

    def _open(self) -> Union[StreamSource, SharedSource]:
        """Begin to listen, and return where the main thread's frames come from."""
        decoder, source, conversation = self._decoder, self._source, self._conversation
        interrupts, pulse, ending = conversation.interrupts, conversation.pulse, conversation.ending
        if self._control is not None:
            tidy = None if conversation.memory is None else conversation.memory.tidy
            Listener(self._control, Channel(self._control), interrupts, pulse, ending, tidy=tidy).start()
            return StreamSource(source, self._decoder)
        from mer_worker.backlog import Backlog  # for a worker over one stream only
        from mer_worker.patrol import Patrol

        waiting = Backlog()
        shared = SharedSource(source, decoder, waiting, self._cache)
        Patrol(
            shared,
            decoder,
            waiting,
            self._channel,
            interrupts,
            pulse,
            ending,
            cache=self._cache,
            silence=self._silence,
        ).start()
        return shared

    def _map(self, descriptors: Sequence[int]) -> None:
        try:
            from mer_worker.memory import open_files  # not where the standard library lacks ctypes

            self._conversation.memory = memory = Sharing(*open_files(descriptors))
        except (ImportError, OSError, ValueError) as error:  # an address space that is limited, say
            self._memory = {"refused": str(error)}
        else:
            self._decoder.claim = memory.claim
            self._conversation.incoming.memory = memory.theirs
            self._memory = {"layout": LAYOUT}

    def _forked(self) -> None:
        """In a child that the model forks: the conversation is its parent's, which it would spoil by a word of its own.

        One that comes out of the handler finds the end of the input, and exits.
        """
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (self._source, self._sink, self._control):
            if descriptor is not None:
                os.dup2(nothing, descriptor, inheritable=False)
        os.close(nothing)
        self._channel.renew()
        self._conversation.naming = threading.RLock()  # whose thread is not there any more
        self._conversation.logs.request = 0  # what it prints goes to fd 2
        if self._conversation.logs.several is not None:
            self._conversation.logs.several.forget()

    def _other(self, received: Frame) -> bool:
        """Handle what is no inference; False when the conversation is over."""
        kind, request = received.kind, received.request
        if kind == Kind.HELLO:
            self._conversation.greet(received.fields())
        elif kind == Kind.ERROR and not request:
            return False  # the driver gives up
        elif self._conversation.peer is None:
            raise WireError("the first frame is a hello")
        elif kind == Kind.LOAD:
            self._load(received)
        elif kind == Kind.PING:
            self._channel.send(self._conversation.pulse.pong(received))
        elif kind == Kind.CANCEL:
            self._conversation.interrupts.cancel(request)
            if self._cache is not None:
                self._cache.cancel(received)
        elif kind == Kind.SHUTDOWN:
            return False
        elif kind == Kind.INFER:
            self._channel.send(error_frame(Failure("protocol", "not-loaded", "no model is loaded"), request))
        elif self._serving is not None and kind in self._serving.kinds:
            self._serving.take(received)
        elif kind in (Kind.HAVE, Kind.PUT) and self._cache is not None:
            self._cache.take(received)
        elif kind in (Kind.PART, Kind.CREDIT):
            pass  # of a request that is over, or that was answered as a whole
        else:
            failure = Failure("protocol", "unknown-kind", f"this worker has no capability for frames of kind {kind}")
            self._channel.send(error_frame(failure, request))
        return True

    def _load(self, received: Frame) -> None:
        request, turn = received.request, self._turn
        if self._runner is not None:
            failure = Failure("protocol", "already-loaded", "this worker has its model; start another one")
            self._channel.send(error_frame(failure, request))
            return
        try:
            turn.start(request)
            try:
                fields = self._found(received)
                watch = self._limit(fields)
                self._runner = self._conversation.runner = load(fields)
                conversation = self._conversation
                conversation.incoming.use(self._runner.arrays)
                Context.of_process = Outputs(self._runner.arrays, conversation.memory, conversation.interrupts)
                self._serving = serving(self._runner, self._conversation, fields)
                self._conversation.logs.follow_logging()
            finally:
                turn.stop()
            if watch is not None:
                watch.loaded()
        except BodyDropped as error:
            self._channel.send(error_frame(Failure("busy", "out-of-memory", str(error)), request))
        except WireError as error:
            self._channel.send(error_frame(Failure("protocol", "bad-load", str(error)), request))
        except Cancelled:
            turn.stop()  # it may have come on the way there
            failure = Failure("cancelled", "cancelled", "cancelled while loading")
            self._channel.send(error_frame(failure, request, number=turn.microseconds()))
        except BaseException as error:  # noqa: BLE001 - the author's code may raise anything, SystemExit too
            failure = self._conversation.limits.failure(error, "load", "while the model was loaded")
            self._channel.send(error_frame(failure, request, number=turn.microseconds()))
        else:
            self._channel.send(frame(Kind.RESULT, {}, request=request, number=turn.microseconds()))

    def _found(self, received: Frame) -> dict[str, Any]:
        """Return what a load frame says, with paths for digests, once the device is this driver's.

        Raises:
            Failure, WireError
        """
        fields = load_fields(received)
        if self._cache is None:
            return fields

        def tell(text: str) -> None:
            said = {"stream": "log", "level": "info"}
            self._channel.send(frame(Kind.LOG, said, request=received.request, body=f"{text}\n".encode()))

        fields = self._cache.resolved(fields)
        self._cache.await_turn(fields, tell)
        return fields

    def _limit(self, fields: Mapping[str, object]) -> Optional[Watch]:
        """Hold the version's limits from now on. Raises: WireError."""
        given, threads = fields.get("limits"), fields.get("concurrency")
        if given is None:
            return None
        if type(given) is not dict:
            raise WireError("limits are an object")
        limits = self._conversation.limits = Limits(given)
        limits.apply(threads if type(threads) is int else 1)
        self._conversation.logs.most = limits.log_bytes
        if not limits.watched:
            return None
        watch = Watch(limits, self._conversation)
        watch.start()
        return watch

    def _hello(self) -> dict[str, object]:
        capabilities = ["in-band" if self._control is None else "control", *CAPABILITIES]
        if "layout" in self._memory:
            capabilities.append(SHARED_MEMORY)
        if self._cache is not None:
            capabilities.append(BLOBS)
        return {
            "protocol": {"min": OLDEST_VERSION, "max": VERSION},
            "capabilities": capabilities,
            "limits": {"head": MAX_HEAD_BYTES, "body": MAX_BODY_BYTES},
            "runners": list(RUNNERS),
            "pid": os.getpid(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "interpreter": sys.executable,
            **({"memory": self._memory} if self._memory else {}),
        }


CAPABILITIES: tuple[str, ...] = ("templates", "batch", "limits", "stream", "seal", "trace")
"""What this worker can do beyond the least (docs/wire.md, section 4)."""

BLOBS = "blobs"
"""Where it has a folder for what it is pushed."""
