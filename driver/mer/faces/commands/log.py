"""The access log: read, verified, exported."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer.core.chain import Checkpoint
from mer.core.errors import LogNotVerified, UsageError
from mer.core.records import AccessFilter, AccessRecord, InvocationId, Outcome, RecordKind
from mer.faces.commands.options import paging
from mer.faces.commands.times import parse_time
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.files import written
from mer.faces.render.listing import show_page
from mer.faces.render.progress import Progress
from mer.faces.render.table import Column, details
from mer.faces.render.text import counted, visible

if TYPE_CHECKING:
    from mer.audit.log import Verification

MAX_JOBS = 64
"""Processes of a verification: each holds a connection, of which a server has a hundred where nobody says otherwise."""

COLUMNS = (
    Column("seq", right=True, whole=True),
    Column("at", whole=True),
    Column("kind", whole=True),
    Column("model"),
    Column("server"),
    Column("outcome", whole=True),
    Column("actor"),
    Column("invocation", whole=True, spare=True),
)


@click.group(cls=Noun, help=ENTRIES["log"].help)
def command() -> None:
    """The access log."""


@command.command("list")
@paging("SEQ")
@click.option("--kind", type=click.Choice([kind.value for kind in RecordKind]))
@click.option("--model", metavar="NAME")
@click.option("--server", metavar="NAME")
@click.option("--actor", metavar="USER", help="Who asked.")
@click.option("--outcome", type=click.Choice([outcome.value for outcome in Outcome]))
@click.option("--invocation", metavar="ID")
@click.option("--since", metavar="TIME", help="As in 2026-11-21, 2026-11-21T10:30, 90m, 6h or 7d.")
@click.option("--until", metavar="TIME", help="Not this moment itself.")
@click.pass_obj
async def list_records(face: Face, /, limit: int, after: str | None, **given: Any) -> None:
    """List records, newest first."""
    where = AccessFilter(
        kind=RecordKind(given["kind"]) if given["kind"] else None,
        model=given["model"],
        server=given["server"],
        actor=given["actor"],
        outcome=Outcome(given["outcome"]) if given["outcome"] else None,
        invocation=InvocationId(given["invocation"].lower()) if given["invocation"] else None,
        since=parse_time(given["since"], option="--since") if given["since"] else None,
        until=parse_time(given["until"], option="--until") if given["until"] else None,
    )
    page = await (await face.mer()).log.list(where, after=after, limit=limit)
    if face.console.json:
        face.console.document({"items": [_document(record) for record in page.items], "next": page.next})
        return
    show_page(face.console, page, COLUMNS, lambda record: _row(face, record))


@command.command()
@click.argument("which", metavar="SEQ|INVOCATION")
@click.pass_obj
async def show(face: Face, which: str) -> None:
    """Show one record, or all records of an invocation."""
    records = await (await face.mer()).log.show(which)
    console = face.console
    if console.json:
        console.document({"records": [_document(record) for record in records]})
        return
    for index, record in enumerate(records):
        if index:
            console.result()
        fields = {"seq": str(record.seq), "digest": record.digest, "previous": record.previous}
        console.result(details(console, fields | _flat(_body(record))), end="")


@command.command()
@click.argument("file", required=False, type=Path)
@click.option(
    "--since", metavar="CHECKPOINT", help="What `log checkpoint` printed once: also find a tail cut since then."
)
@click.option(
    "--jobs",
    type=click.IntRange(1, MAX_JOBS),
    default=1,
    metavar="N",
    help="Share a long log among N processes (PostgreSQL).",
)
@click.pass_obj
async def verify(face: Face, file: Path | None, since: str | None, jobs: int) -> None:
    """Recompute the chain of the log, or of an exported FILE, and name every record that does not hold."""
    checkpoint = Checkpoint.parse(since) if since else None
    if file is not None and jobs > 1:
        raise UsageError("--jobs is for the log in the database: a FILE is verified by one process")
    with Progress(face.console, "verified", "records") as progress:
        if file is not None:
            from mer.audit.log import verify_export

            try:
                found = await asyncio.to_thread(verify_export, file, since=checkpoint, progress=progress)
            except asyncio.CancelledError:
                progress.stop()
                raise
        else:
            log = (await face.mer()).log
            if progress.shown:
                progress.total = (await log.checkpoint()).seq
            if jobs > 1 and not log.divisible:
                face.console.note("this database is open for one process alone: that one verifies it all")
            found = await log.verify(since=checkpoint, progress=progress, jobs=jobs)
    face.show(_verification(found), lambda: _verification_text(face, found))
    if not found.sound:
        raise LogNotVerified(
            f"{counted(len(found.faults), 'fault')} in {counted(found.records, 'record')}", hint="mer log show SEQ"
        )


@command.command()
@click.pass_obj
async def checkpoint(face: Face) -> None:
    """Print the head of the log, to be kept elsewhere."""
    head = await (await face.mer()).log.checkpoint()
    told = {"checkpoint": str(head), "chain": head.chain, "seq": head.seq, "digest": head.digest}
    face.show(told, lambda: f"{head}\n")


@command.command()
@click.argument("file", required=False, type=Path)
@click.option("--after", type=click.IntRange(0), default=0, metavar="SEQ", help="From the record behind this one on.")
@click.pass_obj
async def export(face: Face, file: Path | None, after: int) -> None:
    """Write the log to a FILE, or to stdout, one record a line. It verifies without the database."""
    log = (await face.mer()).log
    if file is None:
        async for lines in log.export(after=after):
            face.console.raw(lines.encode())
        return
    count = 0
    with written(file) as out:
        async for lines in log.export(after=after):
            out.write(lines.encode())
            count += lines.count("\n")
    face.show({"file": file, "records": count}, lambda: f"wrote {counted(count, 'record')} to {visible(str(file))}\n")


def _body(record: AccessRecord) -> dict[str, Any]:
    try:
        body = json.loads(record.body)
    except ValueError:
        body = None  # somebody changed it in the database: it is shown as it is, and `log verify` names it
    return body if isinstance(body, dict) else {"body": record.body}


def _document(record: AccessRecord) -> dict[str, Any]:
    return {"seq": record.seq, "digest": record.digest, "previous": record.previous, "record": _body(record)}


def _flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested fields as dotted names with texts: `actor.user`, `inputs.0.sha256`."""
    flat: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            flat |= _flat({str(index): item for index, item in enumerate(value)}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat


def _row(face: Face, record: AccessRecord) -> tuple[str, ...]:
    columns = record.columns
    version = f":{columns['version']}" if columns.get("version") else ""
    model = f"{columns['model']}{version}" if columns.get("model") else ""
    return (
        str(record.seq),
        _time(face, columns.get("at")),
        str(columns.get("action") or columns.get("kind") or ""),
        model,
        str(columns.get("server") or ""),
        str(columns.get("outcome") or ""),
        str(columns.get("actor") or ""),
        str(columns.get("invocation") or ""),
    )


def _time(face: Face, at: object) -> str:
    import datetime as dt

    try:
        return face.console.time(dt.datetime.fromisoformat(str(at)))
    except ValueError:
        return str(at or "")


def _verification(found: Verification) -> dict[str, Any]:
    return {
        "sound": found.sound,
        "chain": found.chain,
        "first": found.first,
        "records": found.records,
        "head": found.head,
        "faults": found.faults,
    }


def _verification_text(face: Face, found: Verification) -> str:
    lines = [f"record {fault.seq}: {visible(fault.what)}\n" for fault in found.faults]
    if found.first > 1:
        face.console.note(f"this begins with record {found.first}: what stood before it is not proven here")
    if found.sound:
        lines.append(f"sound: {counted(found.records, 'record')}, head {found.head.seq} {found.head.digest}\n")
    return "".join(lines)
