"""Completion: commands and options from the tree, names from the cache, files from the disk, on Tab."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence

import click
from prompt_toolkit.completion import CompleteEvent, Completer, PathCompleter
from prompt_toolkit.completion import Completion as Candidate
from prompt_toolkit.document import Document

from mer.faces.commands.tree import Root
from mer.faces.render.text import visible
from mer.faces.repl.names import NameCache


class Completion(Completer):
    """Completes the last word of a line."""

    def __init__(self, root: Root, names: NameCache) -> None:
        self._root = root
        self._names = names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Candidate]:
        words, last = _words(document.text_before_cursor)
        if last is None:
            return
        prefix, at, path = last.rpartition("@")
        if at and (not prefix or prefix.endswith("=")):
            yield from self._files(path, complete_event)
            return
        command, place, rest = self._command(words[1:] if words[:1] == ["mer"] else words)
        yield from self._of(command, place, rest, last, complete_event)

    def _command(self, words: Sequence[str]) -> tuple[click.Command, click.Context, Sequence[str]]:
        command: click.Command = self._root
        place = click.Context(command, info_name="mer", resilient_parsing=True)
        while words and isinstance(command, click.Group):
            if words[0].startswith("-"):
                words = words[1:]
                continue
            try:
                name, found, rest = command.resolve_command(place, list(words))
            except click.ClickException:
                break
            if found is None:
                break
            place = click.Context(found, info_name=name, parent=place, resilient_parsing=True)
            command, words = found, rest
        return command, place, words

    def _of(
        self, command: click.Command, place: click.Context, words: Sequence[str], last: str, event: CompleteEvent
    ) -> Iterator[Candidate]:
        if isinstance(command, click.Group):
            if not words:
                for name in command.list_commands(place):
                    if name.startswith(last):
                        yield _candidate(name, last, self._help(command, place, name))
            return
        options = {name: param for param in command.params if isinstance(param, click.Option) for name in param.opts}
        awaiting = options.get(words[-1]) if words else None
        if awaiting is not None and not awaiting.is_flag:
            yield from self._values(awaiting, last, event)
        elif last.startswith("-"):
            for name, option in options.items():
                if name.startswith(last) and not option.hidden:
                    yield _candidate(name, last, option.help or "")
        else:
            arguments = [param for param in command.params if isinstance(param, click.Argument)]
            given = len(_positional(words, options))
            if arguments and (given < len(arguments) or arguments[-1].nargs == -1):
                yield from self._values(arguments[min(given, len(arguments) - 1)], last, event)

    def _help(self, group: click.Group, place: click.Context, name: str) -> str:
        if isinstance(group, Root):
            return group.entries[name].help
        found = group.get_command(place, name)
        return found.get_short_help_str() if found else ""

    def _values(self, param: click.Parameter, last: str, event: CompleteEvent) -> Iterator[Candidate]:
        names = self._names.names
        if isinstance(param.type, click.Choice):
            known: Sequence[str] = [str(choice) for choice in param.type.choices]
        elif param.name in ("folder", "file"):
            yield from self._files(last, event)
            return
        elif param.name == "words":
            known = self._root.list_commands(click.Context(self._root))
        else:
            match (param.metavar or param.name or "").upper().strip("[]").partition("[")[0]:
                case "MODEL" if "@" in (param.metavar or ""):
                    known = names.references
                case "MODEL":
                    known = names.models
                case "SERVER":
                    known = names.servers
                case "WEIGHTS":
                    known = names.weights
                case "NAME":  # the filters of `log list`
                    known = {"model": names.models, "server": names.servers}.get(param.name or "", ())
                case _:
                    known = ()
        for name in known:
            if name.startswith(last):
                yield _candidate(name, last, "")

    def _files(self, path: str, event: CompleteEvent) -> Iterator[Candidate]:
        for found in self._paths.get_completions(Document(path), event):
            yield Candidate(shlex.quote(found.text) if " " in found.text else found.text, found.start_position)


def _candidate(name: str, last: str, help_text: str) -> Candidate:
    return Candidate(name, -len(last), display=visible(name), display_meta=help_text)


def _words(text: str) -> tuple[list[str], str | None]:
    """Return the words before the last one, and the last one as far as it is typed; None within an open quote."""
    try:
        words = shlex.split(text)
    except ValueError:
        return [], None
    if not text or text[-1].isspace():
        return words, ""
    return words[:-1], words[-1]


def _positional(words: Sequence[str], options: dict[str, click.Option]) -> list[str]:
    """Return the words that are neither options nor their values."""
    found: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-") and len(word) > 1:
            option = options.get(word)
            skip = option is not None and not option.is_flag
        else:
            found.append(word)
    return found
