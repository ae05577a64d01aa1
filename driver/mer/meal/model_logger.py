"""What a model prints where nobody listens: lines of the standard library's logging, so that none is lost without a word."""

from __future__ import annotations

import codecs
import logging

NAME = "mer.model"

MOST_CHARACTERS = 8192
"""Of a line that has no end yet: a progress bar never ends one, and must not be kept whole."""


class ModelLogger:
    """A listener for logs, which come as bytes and are cut anywhere."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(NAME)
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}
        self._unended: dict[str, str] = {}

    def __call__(self, stream: str, level: str, text: bytes) -> None:
        """Log the lines that are whole; the rest waits for its end."""
        decoder = self._decoders.setdefault(stream, codecs.getincrementaldecoder("utf-8")("replace"))
        *lines, rest = (self._unended.get(stream, "") + decoder.decode(text)).split("\n")
        if len(rest) > MOST_CHARACTERS:
            lines, rest = [*lines, rest], ""
        self._unended[stream] = rest
        number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
        for line in lines:
            self._logger.log(number, "%s", line)
