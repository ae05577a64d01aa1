"""The few command lines that a guest may give: read by a grammar of their own, never by the tree of all commands.

Pure: a line in, a request out. Whatever is not named here is refused, so that an option which the console learns tomorrow is
no guest's before somebody has thought about it. Nothing is ever given to a shell.
"""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from mer.core.errors import NotAllowed, UsageError
from mer.core.records import MAX_PAGE, PAGE
from mer.core.references import Reference, check_name, parse_reference
from mer.core.timeouts import check_timeout

MAX_LINE = 8192
"""Characters of a command line: a reference, a few options and a text. What is longer comes by stdin."""

POSSIBLE = "`run MODEL`, `model list`, `model show MODEL`, `ping [MODEL]`"
"""What a key may be used for, in the words of its refusals."""

FRAMES = "frames"
"""The word by which another MER asks for a conversation in frames."""


class Form(StrEnum):
    """How results are written."""

    TEXT = "text"
    JSON = "json"
    LINES = "jsonl"
    NPZ = "npz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """Run a model. Without a text and without pairs its inputs come by stdin."""

    reference: Reference
    text: str | None = None
    pairs: tuple[str, ...] = ()
    """NAME=VALUE, none of them a file."""
    timeout: float | None = None
    """Seconds."""
    form: Form = Form.TEXT


@dataclass(frozen=True, kw_only=True, slots=True)
class ListModels:
    """List the models that this key may run."""

    limit: int = PAGE
    after: str | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ShowModel:
    """Show what a model takes and gives."""

    reference: Reference
    json: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Ping:
    """Ask whether a model could be run, or whether anybody answers at all."""

    reference: Reference | None = None
    json: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Speak as a worker does: the guest is another MER."""


Request: TypeAlias = Run | ListModels | ShowModel | Ping | Frames

_JSON = {"--json": False}
_RUN = {"-i": True, "--input": True, "--timeout": True, "--json": False, "--jsonl": False, "--npz": False}
_LIST = {"--limit": True, "--after": True, **_JSON}
"""By name, whether a value follows. There are no others, and no abbreviations."""


def parse(line: str) -> Request:
    """Read a guest's command line.

    Raises:
        NotAllowed: it asks for something that is not lent.
        UsageError: it asks for something that is, and is not whole.
    """
    match _words(line):
        case [word, *rest] if word == "run":
            return _run(rest)
        case ["model", "list", *rest]:
            return _list(rest)
        case ["model", "show", *rest]:
            options, places = _taken("model show", rest, _JSON)
            return ShowModel(reference=_reference("model show", places), json="--json" in options)
        case ["model", "ping", *rest]:
            options, places = _taken("model ping", rest, _JSON)
            return Ping(reference=_reference("model ping", places), json="--json" in options)
        case ["ping", *rest]:
            options, places = _taken("ping", rest, _JSON)
            return Ping(reference=_reference("ping", places) if places else None, json="--json" in options)
        case [word] if word == FRAMES:
            return Frames()
        case [word, *rest]:
            verb = f" {rest[0]}" if word == "model" and rest else ""
            raise NotAllowed(f"{(word + verb)[:80]!r} is not lent", hint=f"This key may be used for {POSSIBLE}.")
        case _:
            raise UsageError(f"there is no command: this key may be used for {POSSIBLE}")


def _words(line: str) -> list[str]:
    if len(line) > MAX_LINE:
        raise NotAllowed(f"a command line of more than {MAX_LINE} characters", hint="Inputs come by stdin.")
    # Cs: what was no UTF-8. A line has no business with either, and a log or a terminal would have to mend it
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in line):
        raise NotAllowed("a command line with control characters, or not in UTF-8", hint="Inputs come by stdin.")
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the command line cannot be read: {error}") from error
    return words[1:] if words[:1] == ["mer"] else words


def _run(words: Sequence[str]) -> Run:
    options, places = _taken("run", words, _RUN)
    if not 1 <= len(places) <= 2:
        raise UsageError("`run` takes a model, and at most one text")
    text = places[1] if len(places) == 2 else None
    pairs = tuple(options.get("-i", ())) + tuple(options.get("--input", ()))
    for value in (*(() if text is None else (text,)), *(pair.partition("=")[2] for pair in pairs)):
        if value.startswith("@") and not value.startswith("@@"):
            raise NotAllowed(
                "files of this machine are not read for a key", hint="Inputs come by stdin; @@ is a literal @."
            )
    forms = [form for form in Form if f"--{form.value}" in options]
    if len(forms) > 1:
        raise UsageError("--json, --jsonl and --npz do not go together")
    return Run(
        reference=parse_reference(places[0]),
        text=text,
        pairs=pairs,
        timeout=_seconds(options),
        form=forms[0] if forms else Form.TEXT,
    )


def _list(words: Sequence[str]) -> ListModels:
    options, places = _taken("model list", words, _LIST)
    if places:
        raise UsageError("`model list` takes options only")
    limit, after = _one(options, "--limit"), _one(options, "--after")
    if limit is not None and not (
        limit.isascii() and limit.isdecimal() and len(limit) < 9 and 0 < int(limit) <= MAX_PAGE
    ):
        raise UsageError(f"--limit is a number from 1 to {MAX_PAGE}")
    return ListModels(
        limit=int(limit) if limit else PAGE,
        after=None if after is None else check_name(after),
        json="--json" in options,
    )


def _taken(command: str, words: Sequence[str], known: Mapping[str, bool]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the options with their values, and the other words."""
    options: dict[str, list[str]] = {}
    places: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        if word == "--":
            places += left
            break
        if not word.startswith("-"):
            places.append(word)
            continue
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        if name not in known:
            raise NotAllowed(
                f"the option {name[:40]!r} of `{command}` is not lent",
                hint=f"{', '.join(known)} are." if known else None,
            )
        if known[name] and not equals:
            if not left:
                raise UsageError(f"{name} takes a value")
            value = left.pop(0)
        elif equals and not known[name]:
            raise UsageError(f"{name} takes no value")
        options.setdefault(name, []).append(value)
    return options, places


def _reference(command: str, places: Sequence[str]) -> Reference:
    if len(places) != 1:
        raise UsageError(f"`{command}` takes one model")
    return parse_reference(places[0])


def _one(options: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = options.get(name, ())
    if len(values) > 1:
        raise UsageError(f"{name} is given twice")
    return values[0] if values else None


def _seconds(options: Mapping[str, Sequence[str]]) -> float | None:
    given = _one(options, "--timeout")
    if given is None:
        return None
    try:
        return check_timeout(float(given))
    except ValueError as error:
        raise UsageError(f"--timeout {given[:40]!r}: seconds are meant") from error
