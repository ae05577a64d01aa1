"""The `command` runner: a program of any language that speaks the line-token protocol (docs/models.md), kept running.

The program prints READY once it has loaded. A request is START, lines of text, STOP. Its reply is START, lines, STOP, or
one bare line. Whatever it prints to stderr, before READY, or after a reply and before the next request, is log. EXIT ends
it. It has a state, so what cannot be followed any more (a cancelled request, a program that ended) ends the worker with it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time

from mer_worker.failures import Failure
from mer_worker.wire import RECEIVE_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Optional

    from mer_worker.context import Context

MAX_REPLY_BYTES = 64 << 20
"""Text of one reply: it is held in memory whole, here and by the caller."""

_EXIT_SECONDS = 2.0
"""What a program gets to end by itself after EXIT, before its group is ended with the worker's."""

TOKENS = ("ready", "start", "stop", "exit")
OUTPUT = "output"
"""The reply's name where the version does not name its output."""


class CommandRunner:
    """A program, between READY and EXIT."""

    arrays = "buffer"
    ended = False
    plain = None

    def __init__(self, argv: list[str], directory: Optional[str], tokens: Mapping[str, str], output: str) -> None:
        self._tokens = {name: tokens[name] for name in TOKENS}
        self._output = output
        self._received = bytearray()
        try:
            self._program = subprocess.Popen(
                argv, cwd=directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except (OSError, ValueError) as error:
            raise Failure("load", "no-program", f"{argv[0]} cannot be started: {error}") from error
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        self._input = self._program.stdin
        self._to, self._from = self._input.fileno(), self._program.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)

    def wait_ready(self) -> None:
        """Read until READY; what comes before is log.

        Raises:
            Failure: the program ended before.
        """
        while True:
            line = self._line()
            if line == self._tokens["ready"]:
                return
            sys.stdout.write(line + "\n")

    def infer(self, inputs: dict[str, Any], _context: Context) -> Mapping[str, Any]:
        """Send the one text of `inputs`, and return the reply's text.

        Raises:
            Failure: there is more or less than one text, a line of it is a token, or the program ended.
        """
        text = self._text(inputs)
        tokens = self._tokens
        try:
            self._pass_on()
            self._exchange(f"{tokens['start']}\n{text}\n{tokens['stop']}\n".encode())
            line = self._line()
            if line != tokens["start"]:
                return {self._output: line}
            lines: list[str] = []
            size = 0
            while (line := self._line()) != tokens["stop"]:
                lines.append(line)
                size += len(line) + 1
                if size > MAX_REPLY_BYTES:
                    raise Failure("output", "output-invalid", f"a reply of more than {MAX_REPLY_BYTES} bytes")
        except BaseException:
            self.ended = True  # where its next reply begins is not known any more
            raise
        return {self._output: "\n".join(lines)}

    def begin(self, inputs: dict[str, Any], context: Context) -> Mapping[str, Any]:
        """As `infer`: a program replies as a whole."""
        return self.infer(inputs, context)

    def checked(self, outputs: Any) -> Mapping[str, Any]:
        """Return what `infer` gave."""
        return outputs  # type: ignore[no-any-return]

    def seal(self, inputs: dict[str, Any]) -> Any:
        """Keep inputs as they are."""
        return inputs

    def close(self) -> None:
        """Say EXIT, and give it a moment."""
        if self._program.poll() is not None:
            return
        try:
            os.write(self._to, f"{self._tokens['exit']}\n".encode())
            self._input.close()
            self._program.wait(_EXIT_SECONDS)
        except (OSError, subprocess.TimeoutExpired):
            self._program.kill()
            self._program.wait()

    def _text(self, inputs: Mapping[str, Any]) -> str:
        if len(inputs) != 1:
            raise Failure("input", "input-invalid", f"a command takes one text, not {len(inputs)} inputs")
        ((name, text),) = inputs.items()
        if not isinstance(text, str):
            raise Failure("input", "input-invalid", f"a command takes a text; {name!r} is {type(text).__name__}")
        for line in text.splitlines():
            if line in self._tokens.values():
                raise Failure("input", "input-invalid", f"{name!r} has a line that is the token {line!r}")
        return text

    def _pass_on(self) -> None:
        """Log what the program has printed since its last reply: it would be taken for the answer to this request."""
        before = -1
        while before < len(self._received):
            before = len(self._received)
            self._read()
        if self._received:
            sys.stdout.write(self._received.decode("utf-8", "replace"))
            self._received.clear()

    def _exchange(self, request: bytes) -> None:
        """Write the request, reading meanwhile: a program that answers early must not fill both pipes."""
        waiting = memoryview(request)
        while waiting:
            poll = select.poll()
            poll.register(self._to, select.POLLOUT)
            poll.register(self._from, select.POLLIN)
            ready = dict(poll.poll())
            if self._from in ready:
                self._read()
            if self._to in ready:
                try:
                    waiting = waiting[os.write(self._to, waiting) :]
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    raise self._gone() from None

    def _line(self) -> str:
        """Return the next line of the program's output, without its end."""
        looked = 0
        while True:
            end = self._received.find(b"\n", looked)
            if end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                return line.rstrip(b"\r").decode("utf-8", "replace")
            looked = len(self._received)
            poll = select.poll()  # not select: that takes no descriptor past 1023
            poll.register(self._from, select.POLLIN)
            poll.poll()
            self._read()

    def _read(self) -> None:
        try:
            part = os.read(self._from, RECEIVE_BYTES)
        except BlockingIOError:
            return
        if not part:
            raise self._gone()
        self._received += part
        if len(self._received) > MAX_REPLY_BYTES + RECEIVE_BYTES:  # beside the text: its tokens and ends of lines
            raise Failure("output", "output-invalid", f"more than {MAX_REPLY_BYTES} bytes at once")

    def _gone(self) -> Failure:
        self.ended = True
        deadline = time.monotonic() + _EXIT_SECONDS
        while (status := self._program.poll()) is None and time.monotonic() < deadline:
            time.sleep(0.01)  # it has closed its pipe; its status follows
        if status is None:
            return Failure("lost", "program-ended", "the program closed its output")
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return Failure("lost", "program-ended", f"the program {how}")


def load(fields: Mapping[str, Any]) -> CommandRunner:
    """Start the program and wait until it is ready.

    Raises:
        Failure: it cannot be started, or ended before it was ready.
    """
    command, folder, output = fields.get("command"), fields.get("folder"), fields.get("output", OUTPUT)
    tokens = command.get("tokens") if isinstance(command, dict) else None
    argv = command.get("argv") if isinstance(command, dict) else None
    if not (
        isinstance(command, dict)
        and isinstance(argv, list)
        and argv
        and all(isinstance(part, str) for part in argv)
        and isinstance(tokens, dict)
        and all(isinstance(tokens.get(name), str) and tokens[name] for name in TOKENS)
        and isinstance(output, str)
    ):
        raise Failure("protocol", "bad-load", "a command has an argv, tokens and an output's name")
    directory = command.get("directory")
    if folder is not None:
        directory = os.path.join(folder, directory) if directory else folder
    if directory is not None and not os.path.isdir(directory):
        raise Failure("load", "no-folder", f"there is no folder {directory}")
    runner = CommandRunner(argv, directory, tokens, output)
    try:
        runner.wait_ready()
    except BaseException:
        sys.stdout.flush()
        runner._program.kill()
        runner._program.wait()
        raise
    return runner
