"""The console: what stdout, stderr and the terminal are for one command. Whatever is printed goes through here."""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from mer.core.errors import ContentUnwritable, MerError, ModelFailed
from mer.faces.render.style import Style
from mer.faces.render.text import cut, visible

if TYPE_CHECKING:
    import datetime as dt

    from mer.faces.render.table import Column

NARROWEST = 20
"""Cells: a terminal that says less (0, where nobody set its size) is taken to have this many."""

PLAIN_WIDTH = 80
"""Cells where there is no terminal to ask; only what is cut to a width on purpose needs it."""


class OutputClosed(Exception):
    """Whoever read stdout has gone, as `head` does when it has seen enough: no fault of the command."""


class Console:
    """Where one command writes. `json` turns results and errors into one JSON document each."""

    def __init__(
        self,
        *,
        stdout: TextIO,
        stderr: TextIO,
        environ: Mapping[str, str],
        json: bool = False,
        color: bool = True,
        debug: bool = False,
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.json = json
        self.color = color and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        self.debug = debug
        self.terminal = stdout.isatty()
        """Whether results are read by a person."""
        self.error_terminal = stderr.isatty()
        self._columns = environ.get("COLUMNS", "")
        self._drawn = False
        """Whether a line of progress stands on the terminal."""
        self.asks = False
        """Whether a person is asked something there: nothing is drawn over the question."""

    def for_line(self) -> Console:
        """Return a console of the same streams, whose options one line of the REPL may change for itself."""
        line = Console.__new__(Console)
        line.__dict__.update(self.__dict__)
        return line

    @property
    def width(self) -> int:
        """Cells of a line."""
        if self._columns.isascii() and self._columns.isdecimal() and int(self._columns) > 0:
            return max(NARROWEST, int(self._columns))
        if not self.terminal:
            return PLAIN_WIDTH
        try:
            return max(NARROWEST, os.get_terminal_size(self.stdout.fileno()).columns)
        except (OSError, ValueError):
            return PLAIN_WIDTH

    @property
    def pictures(self) -> bool:
        """Whether block characters reach the eye as such."""
        return self.terminal and (self.stdout.encoding or "").lower().replace("-", "") == "utf8"

    def result(self, text: str = "", *, end: str = "\n") -> None:
        """Write a line, or lines, of the result. The caller has made what came from outside visible."""
        self._write(self.stdout, text + end)

    def raw(self, content: bytes) -> None:
        """Write bytes to stdout as they are."""
        self.progress("")
        self.flush()
        with self._translated(self.stdout):
            self.stdout.buffer.write(content)

    def document(self, value: Any) -> None:
        """Write the result as one JSON document on a line."""
        from mer.faces.render.documents import encode

        self._write(self.stdout, encode(value) + "\n")

    def note(self, text: str) -> None:
        """Write a remark to stderr: what came of it, how to get the next page. It follows what it remarks on."""
        with self._translated(self.stdout):
            self.stdout.flush()
        self._write(self.stderr, visible(text, lines=True) + "\n")

    def warn(self, text: str) -> None:
        """Write a warning to stderr."""
        self._labelled("warning:", Style.YELLOW, text)

    def failed(self, text: str) -> None:
        """Write to stderr what failed in what stdout has just shown."""
        with self._translated(self.stdout):
            self.stdout.flush()
        self._labelled("failed:", Style.RED, text)

    def hint(self, text: str) -> None:
        """Write to stderr what can be done about it."""
        self._labelled("hint:", Style.CYAN, text)

    def _labelled(self, label: str, style: str, text: str) -> None:
        self._write(self.stderr, f"{self.error_styled(label, style)} {visible(text, lines=True)}\n")

    def model_log(self) -> Callable[[str, str, bytes], None]:
        """Return what writes to stderr what a model prints while it runs, as it comes."""
        decoders: dict[str, codecs.IncrementalDecoder] = {}

        def write(stream: str, _level: str, text: bytes) -> None:
            # a character may be cut in two by the frames that it comes in
            decoder = decoders.setdefault(stream, codecs.getincrementaldecoder("utf-8")("replace"))
            decoded = decoder.decode(text)
            self._write(self.stderr, visible(decoded, lines=True) if self.error_terminal else decoded)
            with self._translated(self.stderr):
                self.stderr.flush()

        return write

    def progress(self, line: str) -> None:
        """Draw a line over the one drawn before; an empty one takes it away, as does whatever else is written."""
        if self.asks or not (line or self._drawn):
            return
        self._drawn = False
        self._write(self.stderr, f"\r{cut(line, self.width - 1)}\x1b[K")
        self._drawn = bool(line)
        with self._translated(self.stderr):
            self.stderr.flush()

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Draw nothing within the block: a person is asked something."""
        self.progress("")
        self.asks = True
        try:
            yield
        finally:
            self.asks = False

    def picture(self, lines: Sequence[str], *, over: int) -> None:
        """Draw lines over the `over` lines of the picture before."""
        text = f"\x1b[{over}A" if over else ""
        text += "".join(f"\r{cut(visible(line), self.width - 1)}\x1b[K\n" for line in lines)
        self._write(self.stderr, text + "\x1b[J")
        with self._translated(self.stderr):
            self.stderr.flush()

    def error(self, error: MerError) -> None:
        """Tell an error on stderr: its message and its hint, or a JSON document."""
        traceback = error.traceback if isinstance(error, ModelFailed) else None
        if self.json:
            from mer.faces.render.documents import encode, error_document

            self._write(self.stderr, encode(error_document(error)) + "\n")
            return
        if traceback:
            self._write(self.stderr, visible(traceback.rstrip("\n"), lines=True) + "\n")
        self._labelled("error:", Style.RED, error.message)
        if error.hint:
            self.hint(error.hint)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
        """Write a table: ruled and cut to the width on a terminal, plain and whole into a pipe."""
        from mer.faces.render import table

        self._write(self.stdout, table.rendered(self, columns, list(rows)))

    def styled(self, text: str, style: str) -> str:
        """Return `text` as stdout should show it."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.terminal and self.color else text

    def error_styled(self, text: str, style: str) -> str:
        """Return `text` as stderr should show it."""
        return f"\x1b[{style}m{text}\x1b[0m" if self.error_terminal and self.color else text

    def time(self, at: dt.datetime) -> str:
        """Return a time: the reader's own on a terminal, UTC in ISO 8601 otherwise."""
        if self.terminal:
            return f"{at.astimezone():%Y-%m-%d %H:%M:%S}"
        from datetime import UTC

        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")

    def size(self, count: int) -> str:
        """Return a number of bytes for a sentence: rounded on a terminal, exact otherwise."""
        if not self.terminal:
            return f"{count} byte{'' if count == 1 else 's'}"
        return self.size_in_column(count)

    def size_in_column(self, count: int) -> str:
        """Return a number of bytes for a table: with a unit on a terminal, a bare number otherwise."""
        if not self.terminal:
            return str(count)
        amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
        while amount >= 1024 and len(units) > 1:
            amount /= 1024
            units.pop(0)
        return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{count} B"

    def flush(self) -> None:
        """Put everything out."""
        for stream in (self.stdout, self.stderr):
            with self._translated(stream):
                stream.flush()

    def finish(self) -> None:
        """Put everything out, or let it go: what the interpreter cannot flush at its end would change the exit code."""
        for stream in (self.stdout, self.stderr):
            try:
                stream.flush()
            except OSError:
                self._discard(stream)

    def discard(self) -> None:
        """Let what is still to be written to a closed stdout go nowhere, so that the interpreter's own flush is quiet."""
        self._discard(self.stdout)

    @staticmethod
    def _discard(stream: TextIO) -> None:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)

    def _write(self, stream: TextIO, text: str) -> None:
        if self._drawn:
            self.progress("")
        with self._translated(stream):
            stream.write(text)

    @contextlib.contextmanager
    def _translated(self, stream: TextIO) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            if stream is self.stdout:
                raise OutputClosed from None
            # nobody reads stderr any more: what is said there is lost, the command goes on
        except OSError as error:
            if stream is self.stdout:
                raise ContentUnwritable(f"the output cannot be written: {error.strerror or error}") from error
