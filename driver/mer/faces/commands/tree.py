"""The tree of commands: names and short helps stand here, so that `--help` imports none of the modules behind them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

import click

CONTEXT_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Entry(NamedTuple):
    """A command of the root: the module that has it under `command`, and its short help (a test compares both)."""

    module: str
    help: str


ENTRIES: Mapping[str, Entry] = {
    "run": Entry("mer.faces.commands.run", "Run a model and show what it answers."),
    "model": Entry("mer.faces.commands.model", "Models: register, name by aliases, place, ping, retire."),
    "weights": Entry("mer.faces.commands.weights", "Weights: register, and use with a model's code."),
    "server": Entry("mer.faces.commands.server", "Servers: the places that run models."),
    "registry": Entry("mer.faces.commands.registry", "The registry as a file: apply one, export one."),
    "log": Entry("mer.faces.commands.log", "The access log: read, verify, export."),
    "store": Entry("mer.faces.commands.store", "The content store: packages and weights on disk."),
    "driver": Entry("mer.faces.commands.driver", "Drivers: the living processes that run models."),
    "db": Entry("mer.faces.commands.db", "The database: its state, copies and backups."),
    "settings": Entry("mer.faces.commands.settings", "Settings: what is set, and from where."),
    "serve-ssh": Entry(
        "mer.faces.commands.serve_ssh", "Lend models to a key: the command of its authorized_keys line."
    ),
    "version": Entry("mer.faces.commands.version", "Show which MER this is."),
}

REPL_ENTRIES: Mapping[str, Entry] = {
    "help": Entry("mer.faces.commands.help", "Show the commands, or one command's help."),
    "exit": Entry("mer.faces.commands.exit", "Leave. Ctrl-D does the same."),
    "quit": Entry("mer.faces.commands.exit", "Leave. Ctrl-D does the same."),
}

OLD_NAMES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("model-list", "list-models", "model-ls", "ls-models", "ls"), ("model", "list")),
    "model-info": ("model", "show"),
    **dict.fromkeys(("model-ping", "ping-model", "ping"), ("model", "ping")),
    **dict.fromkeys(("model-execute", "execute-model", "execute"), ("run",)),
    **dict.fromkeys(("model-create", "create"), ("model", "register")),
    **dict.fromkeys(("model-modify", "modify"), ("model", "edit")),
    **dict.fromkeys(("model-delete", "delete"), ("model", "retire")),
}
"""The commands of the system that MER continues, so that its users and their scripts find their way."""


class Layout(click.HelpFormatter):
    """Help that fits a narrow terminal: the names of options take half of a line there, not all of it."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        super().write_dl(rows, col_max=min(col_max, self.width // 2), col_spacing=col_spacing)


class Context(click.Context):
    """A context whose help is as wide as the console; click's own is never narrower than 50 cells."""

    def make_formatter(self) -> click.HelpFormatter:
        if self.obj is None:
            return super().make_formatter()
        most = self.max_content_width or CONTEXT_SETTINGS["max_content_width"]
        return Layout(width=min(self.obj.console.width, most) - 2)


class Helpful(click.Command):
    """A command whose help goes where its results go: click's own way out takes a reader that has gone for a fault."""

    context_class = Context

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback, option.help = _show_help, "Show this help."
        return option


def _show_help(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
    if given and not ctx.resilient_parsing:
        ctx.obj.console.result(ctx.get_help())
        ctx.exit()


class Root(Helpful, click.Group):
    """A group whose commands are imported when they are used."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = importlib.import_module(entry.module).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        args = [*OLD_NAMES.get(name, (name,)), *args[1:]]
        if args[0] not in self.entries and not args[0].startswith("-"):
            nearest = get_close_matches(name, [*self.entries, *OLD_NAMES], n=1)
            raise click.exceptions.NoSuchCommand(name, possibilities=nearest, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])


class Verb(Helpful):
    """A command that does something. It takes the options that every command takes, so that their place never matters."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**CONTEXT_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.params.extend(output_options(shown=("--json",)))


class Noun(Helpful, click.Group):
    """The commands of one noun."""

    command_class = Verb

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = {**CONTEXT_SETTINGS, **(kwargs.get("context_settings") or {})}
        super().__init__(*args, **kwargs)
        self.params.extend(output_options(shown=()))

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order in which they are written down: list and show first


def output_options(*, shown: Sequence[str]) -> list[click.Option]:
    """Return the options that say how a command writes; those in `shown` stand in its help."""

    def turn(attribute: str, to: bool) -> Any:
        def callback(ctx: click.Context, _param: click.Parameter, given: bool) -> None:
            if given:
                setattr(ctx.obj.console, attribute, to)

        return callback

    told = (
        ("--json", "json", True, "Write the result as one JSON document."),
        ("--no-color", "color", False, "Use no colours. NO_COLOR in the environment does the same."),
        ("--debug", "debug", True, "Show the traceback of a bug in MER."),
    )
    return [
        click.Option(
            [flag],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=turn(attribute, to),
            help=help_text,
            hidden=flag not in shown,
        )
        for flag, attribute, to, help_text in told
    ]
