"""The migrations program, `mer-migrate`: which schema a database has, and how it gets the one that `mer` needs.

It logs in as the owner of the tables. `mer` never does; it starts this program where an embedded database is behind.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from mer.core.errors import Interrupted, MerError, NotMigrated, UsageError
from mer.settings import load
from mer_migrations.target import Migration, Target, missing, target
from mer_migrations.target import current as current_of


def main() -> None:
    """Run the console script and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an error's words go to stderr."""
    try:
        program.main(args=list(arguments), prog_name="mer-migrate", standalone_mode=False)
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.ClickException as error:
        error.show()
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Interrupted.exit_code
    except MerError as error:
        click.echo(f"mer-migrate: {error.message}", err=True)
        if error.hint:
            click.echo(f"  {error.hint}", err=True)
        return error.exit_code
    return 0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--database-url", metavar="URL", help="The database; DB_CONNECTION_URL, or the embedded one, by default.")
@click.option(
    "--env-file", type=click.Path(path_type=Path), help="Read settings from this file, not from MER_HOME's .env."
)
@click.pass_context
def program(context: click.Context, database_url: str | None, env_file: Path | None) -> None:
    """Look after the schema of MER's database."""
    flags = {"database_url": database_url}
    context.obj = lambda: target(load(environ=os.environ, flags=flags, env_file=env_file))


ALLOWING = "Allow changes to the registry; without it, it is read-only."

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@program.command()
@as_json
@click.pass_obj
def current(open_target: Any, *, as_json: bool) -> None:
    """Show the last migration that was applied."""
    database: Target = open_target()
    number = current_of(database)
    if as_json:
        _tell(database, number)
    elif number is None:
        click.echo(f"{database.shown}: not migrated")
    else:
        name = {migration.number: migration.name for migration in database.known()}.get(number, "unknown here")
        click.echo(f"{database.shown}: {number:02} {name}")


@program.command()
@as_json
@click.pass_obj
def check(open_target: Any, *, as_json: bool) -> None:
    """Exit with 0 where nothing is missing, with 78 where `upgrade` has something to do."""
    database: Target = open_target()
    pending = missing(database)
    if as_json:
        _tell(database, current_of(database), pending=pending)
    if pending:
        names = ", ".join(map(str, pending))
        raise NotMigrated(f"{database.shown} lacks {names}", hint="Run: mer-migrate upgrade")
    if not as_json:
        click.echo(f"{database.shown}: up to date")


@program.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-a", "--allow-model-server-runtime-changes", "allow_changes", is_flag=True, default=None, help=ALLOWING)
@click.option("--plan", "only_plan", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--prune", is_flag=True, help="Retire and take away what FILE no longer names.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before that.")
@as_json
@click.pass_context
def seed(context: click.Context, /, file: Path, *, allow_changes: bool | None, as_json: bool, **how: bool) -> None:
    """Make the registry what FILE says, as `mer registry apply` does; a second time changes nothing."""
    from mer_migrations.seeding import seed as run_seed  # `mer` whole: what moves a schema has no use for it

    assert context.parent is not None
    given = context.parent.params
    flags = {"database_url": given["database_url"], "allow_changes": allow_changes}
    settings = load(environ=os.environ, flags=flags, env_file=given["env_file"])
    told = run_seed(settings, file, environ=os.environ, **how)
    click.echo(told.json() if as_json else told.text())


@program.command()
@as_json
@click.pass_obj
def upgrade(open_target: Any, *, as_json: bool) -> None:
    """Apply the migrations that are missing, each in a transaction of its own."""
    database: Target = open_target()
    missing(database)  # refuses a newer database
    applied = database.upgrade(None)
    if as_json:
        _tell(database, current_of(database), applied=applied)
    elif applied:
        for migration in applied:
            click.echo(f"{database.shown}: applied {migration}")
    else:
        click.echo(f"{database.shown}: up to date")


def _tell(database: Target, number: int | None, **lists: Sequence[Migration]) -> None:
    told: dict[str, Any] = {"database": database.shown, "current": number, "newest": database.known()[-1].number}
    for name, migrations in lists.items():
        told[name] = [{"number": migration.number, "name": migration.name} for migration in migrations]
    click.echo(json.dumps(told, ensure_ascii=False))


if __name__ == "__main__":
    main()
