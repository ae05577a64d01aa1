"""What a request ended with: the outputs of a result frame, or the error that an error frame stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mer.core.errors import DeadlineExceeded, MerError, OutOfMemory, WorkerLost
from mer.meal.calls import Call
from mer.meal.ending import Ending
from mer.meal.failing import error_of
from mer.meal.peer import text
from mer.meal.shortcut import Answer
from mer.meal.stream import Bytes
from mer.meal.worker_log import WorkerLog
from mer_worker.layout import NO_META, Descriptor, open_frame
from mer_worker.tensors import encode, values_of
from mer_worker.wire import BodyDropped, Frame, Kind, WireError


class Reply(msgspec.Struct):
    """What an inference gave."""

    outputs: dict[str, Any]
    descriptors: tuple[Descriptor, ...]
    run_us: int
    """Microseconds in the handler, by the worker's clock."""
    received: Sequence[Bytes] | None = None
    """The outputs' bytes, where they were kept."""
    meta: Mapping[str, Any] = NO_META

    @property
    def segments(self) -> Sequence[Bytes]:
        """The outputs' bytes as they came, for digests: to be asked for before anybody has the outputs to write to."""
        if self.received is None:
            self.received = encode(self.outputs).segments
        return self.received


class Answers:
    """Reads the answers of one conversation."""

    def __init__(self, arrays: str, ending: Ending, log: WorkerLog) -> None:
        """Make of numbers what `arrays` says."""
        self._arrays = arrays
        self._ending = ending
        self._log = log

    def result(self, answer: Frame, call: Call) -> Frame:
        """Return a call's result frame. Raises: MerError: what its error frame stands for."""
        if answer.kind != Kind.RESULT:
            raise self._failure(answer, call)
        return answer

    def answered(self, answer: Answer | Frame, call: Call) -> Reply:
        """Read what a call's future gave that was sent by the shortest way. Raises: as `result` and `reply`."""
        if isinstance(answer, tuple):
            _, microseconds, outputs, layout = answer
            return Reply(outputs, layout.descriptors, microseconds)
        return self.reply(self.result(answer, call))

    def reply(self, answer: Frame) -> Reply:
        """Read a result, or a part.

        Raises:
            ProtocolViolation: it is none, and the worker is ended.
            OutOfMemory: there is no room for it here.
        """
        try:
            layout, meta, segments = open_frame(answer)
            outputs = values_of(layout, segments, self._arrays)
        except (BodyDropped, MemoryError) as error:
            raise OutOfMemory(str(error) or None) from error
        except WireError as error:
            raise self._ending.violated(error) from error
        return Reply(outputs, layout.descriptors, answer.number, segments, meta)

    def _failure(self, answer: Frame, call: Call) -> MerError:
        """Return the error that an error frame stands for."""
        try:
            fields = answer.fields()
        except WireError as error:
            return self._ending.violated(error)
        kind, code, message = (text(fields, name) for name in ("kind", "code", "message"))
        traceback, meta = text(fields, "traceback") or None, fields.get("meta")
        failure = error_of(kind=kind, code=code, message=message, traceback=traceback)
        if call.late:
            failure = DeadlineExceeded("the deadline passed before the model answered; it was stopped")
        elif isinstance(failure, WorkerLost):
            failure = WorkerLost(f"{message}{self._log.quoted()}")
        failure.run_us = answer.number
        if isinstance(meta, dict):
            failure.meta = meta
        return failure
