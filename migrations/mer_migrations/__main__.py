"""The migrations program, `mer-migrate`: which schema a database has, and how it gets the one that `mer` needs.

It logs in as the owner of the tables. `mer` never does; it starts this program where an embedded database is behind.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click

from mer import __version__
from mer.core.errors import ConfirmationNeeded, Interrupted, MerError, NotMigrated, UsageError
from mer.faces.render.console import Console, OutputClosed
from mer.faces.render.table import Column
from mer.settings import Settings, load
from mer_migrations.choosing import target
from mer_migrations.target import BEFORE_00, Applied, Planned, Target, current, missing, not_made

OpenTarget: TypeAlias = Callable[[Settings], Target]

ALLOWING = "Allow changes to the registry; without it, it is read-only."

LOST = {0: "the registry and the whole access log, every record of it"}
"""What is lost with a migration, beyond the tables and fields that it made: there is no way back to it but a backup."""


def main() -> None:
    """Run the console script and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str], *, open_target: OpenTarget = target) -> int:
    """Run one command and return its exit code; an error's words go to stderr."""
    console = Console(stdout=sys.stdout, stderr=sys.stderr, environ=os.environ, json="--json" in arguments)
    call = Call(console, open_target)
    code: int | None = None  # what ended a command early, such as --help
    try:
        try:
            code = program.main(args=list(arguments), prog_name="mer-migrate", standalone_mode=False, obj=call)
            console.flush()
        except click.ClickException as error:
            raise UsageError(error.format_message(), hint=f"{_path(error)} --help says what it takes") from error
        except (click.Abort, KeyboardInterrupt) as error:
            raise Interrupted from error
    except OutputClosed:
        console.discard()
    except MerError as error:
        console.error(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the outermost place: a bug must not look like a migration that failed
        from mer.faces.reports import redacted

        console.note(redacted("".join(traceback.format_exception(error)), call.loaded))
        console.error(MerError(hint="please report it with the traceback above"))
        return MerError.exit_code
    finally:
        console.finish()
    return code or 0


class Call:
    """What the commands of one command line work with."""

    def __init__(self, console: Console, open_target: OpenTarget) -> None:
        self.console = console
        self.flags: dict[str, object] = {}
        self.env_file: Path | None = None
        self.loaded: Settings | None = None
        """The settings once they were read: an error is cleaned of their secrets."""
        self._open_target = open_target

    def settings(self, **flags: object) -> Settings:
        """Return the settings, `flags` among them. Raises: ConfigurationError."""
        self.loaded = load(environ=os.environ, flags={**self.flags, **flags}, env_file=self.env_file)
        return self.loaded

    def target(self) -> Target:
        """Return the database of the settings. Raises: ConfigurationError."""
        return self._open_target(self.settings())

    def confirm(self, question: str, *, yes: bool) -> None:
        """Go on only if the operator agrees. Raises: ConfirmationNeeded, Interrupted."""
        if yes:
            return
        if not (sys.stdin and sys.stdin.isatty() and self.console.error_terminal):
            raise ConfirmationNeeded
        if not click.confirm(question, err=True):
            raise Interrupted("nothing was changed")

    def tell(self, database: Target, lines: Sequence[str], **lists: Sequence[object]) -> None:
        """Write what came of it: lines, or one JSON object of these lists and where the database stands."""
        if self.console.json:
            told = {"database": database.shown, "current": current(database), "newest": database.known()[-1].number}
            self.console.document(told | lists)
            return
        for line in lines:
            self.console.result(f"{database.shown}: {line}")

    def advise(self, database: Target) -> None:
        """Say on stderr what an administrator should still do."""
        for line in database.advice():
            self.console.warn(f"for an administrator: {line}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.option("--database-url", metavar="URL", help="The database; DB_CONNECTION_URL, or the embedded one, by default.")
@click.option(
    "--env-file", type=click.Path(path_type=Path), help="Read settings from this file, not from MER_HOME's .env."
)
@click.version_option(__version__, message="mer-migrate %(version)s", help="Show which version this is.")
@click.pass_obj
@click.pass_context
def program(context: click.Context, call: Call, database_url: str | None, env_file: Path | None) -> None:
    """Look after the schema of MER's database."""
    if context.invoked_subcommand is None:
        call.console.result(context.get_help())
        context.exit(UsageError.exit_code)
    call.flags = {"database_url": database_url}
    call.env_file = env_file


class Number(click.ParamType[int]):
    """The number of a migration; `base` where that may be meant, which is before the first."""

    name = "number"

    def __init__(self, *, base: bool = False) -> None:
        self._base = base

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if self._base and value == "base":
            return BEFORE_00
        if not (value.isascii() and value.isdecimal() and len(value) <= 2):
            self.fail(f"{value[:80]!r}: 00 to 99{' or base' if self._base else ''} is meant", param, ctx)
        return int(value)


as_json = click.option("--json", is_flag=True, expose_value=False, help="Print one JSON object.")
yes = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@program.command("current")
@as_json
@click.pass_obj
def show_current(call: Call) -> None:
    """Show the last migration that was applied."""
    database = call.target()
    applied = database.applied()
    call.tell(database, [str(applied[-1]) if applied else _nothing(database)])


@program.command()
@as_json
@click.pass_obj
def history(call: Call) -> None:
    """Show what was applied, when and how long it took. The checksum is that of a migration's scripts."""
    database = call.target()
    applied = database.applied()
    call.tell(database, [] if applied else [_nothing(database)], applied=applied)
    if call.console.json:
        return
    columns = [
        Column("number", whole=True),
        Column("name", whole=True),
        Column("applied at", whole=True),
        Column("ms", right=True, whole=True),
        Column("checksum", spare=True),
        Column("state"),
    ]
    call.console.table(columns, [_row(call.console, each) for each in applied])


@program.command()
@as_json
@click.pass_obj
def check(call: Call) -> None:
    """Tell whether everything is in order. Ends with 0 if so; with 78 if not, or if `upgrade` has something to do.

    What only looks makes no database: one that is not there yet is told as that.
    """
    database = call.target()
    pending = missing(database)
    call.tell(database, [] if pending else ["up to date"], pending=pending)
    if pending:
        names = ", ".join(map(str, pending))
        if not database.made:
            raise not_made(database.shown)
        raise NotMigrated(f"{database.shown} lacks {names}", hint="Run: mer-migrate upgrade")
    call.advise(database)


@program.command()
@click.option(
    "--to", type=Number(base=True), metavar="NN", help="Up or down to this number; `base` is before the first."
)
@as_json
@click.pass_obj
def plan(call: Call, *, to: int | None) -> None:
    """Show the statements that would run, and run none. They stand in their order."""
    database = call.target()
    planned = database.plan(to)
    moves = [
        {"number": each.migration.number, "name": each.migration.name}
        | {"direction": each.direction, "statements": each.statements}
        for each in planned
    ]
    call.tell(database, [] if planned else ["nothing to do"], planned=moves)
    if planned and not call.console.json:
        call.console.result("\n\n".join(map(_script, planned)))


@program.command()
@click.option("--to", type=Number(), metavar="NN", help="No further than this number.")
@as_json
@click.pass_obj
def upgrade(call: Call, *, to: int | None) -> None:
    """Apply the migrations that are missing. Each whole or not at all; the roles get their rights again."""
    database = call.target()
    applied = database.upgrade(to)
    call.tell(database, [f"applied {each}" for each in applied] or ["up to date"], applied=applied)
    call.advise(database)


@program.command()
@click.option("--to", type=Number(base=True), metavar="NN", required=True, help="Down to this number, or to `base`.")
@yes
@as_json
@click.pass_obj
def downgrade(call: Call, *, to: int, yes: bool) -> None:
    """Take migrations back, the last one first. What they made is gone with all that it holds."""
    database = call.target()
    going = [each.migration for each in database.plan(to) if each.direction == "down"]
    if going:
        call.console.warn(f"{database.shown} loses {', '.join(map(str, going))}, and all that is stored there")
        for what in [LOST[each.number] for each in going if each.number in LOST]:
            call.console.warn(f"THIS DELETES {what.upper()}. Only a backup brings it back.")
        call.confirm(f"Take {len(going)} migration{'s' * (len(going) > 1)} of {database.shown} back?", yes=yes)
    taken = database.downgrade(to)
    call.tell(database, [f"took back {each}" for each in taken] or ["nothing to do"], taken_back=taken)


@program.command()
@click.argument("number", type=Number(base=True), metavar="NN")
@yes
@as_json
@click.pass_obj
def stamp(call: Call, *, number: int, yes: bool) -> None:
    """Put migrations on record as applied, and run none. Those up to NN count as applied, and no later one; none with `base`.

    For a schema that was made by other means, and for scripts whose edit was meant.
    """
    database = call.target()
    known = {migration.number: migration for migration in database.known()}
    if number not in known and number != BEFORE_00:
        raise UsageError(f"there is no migration {number:02}", hint=f"The newest is {known[max(known)]}.")
    if not database.made:
        raise not_made(database.shown)
    if number == BEFORE_00:
        record = "not migrated"
        call.console.warn(
            f"nothing will run: what {database.shown} holds of MER stays, and is no longer taken for MER's"
        )
    else:
        record = str(known[number])
        call.console.warn(f"nothing will run: {database.shown} must have the schema of {record} already")
    call.confirm(f"Put {database.shown} on record as {record}?", yes=yes)
    database.stamp(number)
    call.tell(database, [f"on record as {record}"])


@program.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-a", "--allow-model-server-runtime-changes", "allow_changes", is_flag=True, default=None, help=ALLOWING)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Retire and take away what FILE no longer names.")
@yes
@as_json
@click.pass_obj
def seed(call: Call, /, file: Path, *, allow_changes: bool | None, **how: bool) -> None:
    """Make the registry what FILE says. `mer registry apply` does the same; a second time changes nothing."""
    from mer_migrations.seeding import seed as run_seed  # `mer` whole: what moves a schema has no use for it

    told = run_seed(call.settings(allow_changes=allow_changes), file, environ=os.environ, **how)
    call.console.result(told.json() if call.console.json else told.text())


def _path(error: click.ClickException) -> str:
    """Return the command whose help says what was wrong."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return context.command_path if context else "mer-migrate"


def _row(console: Console, each: Applied) -> list[str]:
    took = "" if each.microseconds is None else f"{each.microseconds / 1000:.1f}"
    state = "edited since" if each.edited else "stamped" if each.microseconds is None else "applied"
    return [f"{each.number:02}", each.name, console.time(each.applied_at), took, each.checksum, state]


def _nothing(database: Target) -> str:
    return "not migrated" if database.made else "not there yet"


def _script(planned: Planned) -> str:
    """Return it as a script that can be read, its head a comment."""
    head = f"-- {planned.migration}, {'upwards' if planned.direction == 'up' else 'DOWNWARDS'}: one transaction"
    return "\n\n".join([head, *planned.statements])


if __name__ == "__main__":
    main()
