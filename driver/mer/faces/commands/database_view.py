"""How the state of a database, and what was moved, are shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mer.dal.filling import RESUMES
from mer.faces.render.documents import error_document
from mer.faces.render.table import details
from mer.faces.render.text import counted, visible

if TYPE_CHECKING:
    from mer.dal.filling import Filling
    from mer.database_status import Status
    from mer.databases import Abandoned, Moved
    from mer.faces.render.console import Console


def document(found: Status) -> dict[str, Any]:
    """Return the state of a database for programs: flat, what is not known as null."""
    embedded, description, contents = found.embedded, found.description, found.contents
    return {
        "database": found.database,
        **(_fields(embedded) if embedded else {}),
        "schema": found.schema,
        "schema_needed": found.schema_needed,
        "current": found.current,
        "description": _fields(description) if description else None,
        "contents": _fields(contents) if contents else None,
        "content_store": found.content,
        "fault": error_document(found.fault)["error"] if found.fault else None,
    }


def text(console: Console, found: Status) -> str:
    """Return the same for people."""
    embedded, description, contents = found.embedded, found.description, found.contents
    fields: dict[str, str | None] = {"database": found.database}
    if embedded:
        fields |= {
            "running": f"pid {embedded.pid}" if embedded.running else "no; it starts by itself when it is needed",
            "stops": f"after {embedded.idle_seconds:g} s without connections",
            "data": str(embedded.data),
            "socket": str(embedded.socket),
            "log": str(embedded.log),
        }
    if description:
        used = description.connections
        fields |= {
            "server": description.server,
            "client": description.client,
            "login": description.login,
            "encrypted": description.encrypted,
            "owner": description.owner,
            "drivers": _names(description.drivers),
            "auditors": _names(description.auditors),
            "size": None if description.size is None else console.size(description.size),
            "connections": None if used is None else f"{used} of {description.connection_limit}",
            "not told": description.untold,
        }
        fields["schema"] = _schema(found)
    elif not embedded and not found.fault:
        fields["made"] = "not yet"
    if contents:
        fields |= {
            "chain": contents.chain,
            "records": str(contents.records),
            "head": contents.head.digest if contents.records else None,
            "filled": _filled(contents.filling) if contents.filling else None,
            "oldest": console.time(contents.oldest) if contents.oldest else None,
            "open": counted(contents.open_invocations, "invocation"),
            "leases": counted(contents.drivers, "driver"),
        }
    fields["content"] = str(found.content)
    return details(console, fields)


def moved_text(done: Moved) -> str:
    """Return what was moved, and that it holds."""
    if not (done.records or done.lost or done.gone_on):
        first = "no record was missing, and the registry is the same"
    elif done.gone_on:
        first = "all of it was there already, and more behind it: nothing was changed"
    else:
        first = f"moved {counted(done.records, 'record')} and {counted(done.registered, 'thing')} of the registry"
    lines = [first]
    if done.lost:
        lines.append(f"{counted(done.lost, 'invocation')} had no end on record: recorded as lost")
    lines.append(f"sound: {counted(done.head.seq, 'record')}, head {done.head.seq} {done.head.digest}")
    if not done.complete:
        lines.append("drivers may have lived on the source: once they have ended, copy again without --ahead")
    return "".join(f"{visible(line)}\n" for line in lines)


def abandoned_text(left: Abandoned) -> str:
    """Return what is there where a copy was given up."""
    lines = [
        f"gave up what came to {left.database} from {left.filling.source}: nothing more is awaited there",
        f"it has {counted(left.registered, 'thing')} of the registry; what had not come yet is missing",
        f"sound: {counted(left.head.seq, 'record')}, head {left.head.seq} {left.head.digest}",
    ]
    return "".join(f"{visible(line)}\n" for line in lines)


def _filled(filling: Filling) -> str:
    return f"from {filling.source} since {filling.since:%Y-%m-%d %H:%M} UTC; not whole yet: {RESUMES}"


def _schema(found: Status) -> str:
    if found.schema is None:
        return (
            "none: it is made when it is used"
            if found.database.startswith("mem:")
            else "none: mer-migrate upgrade makes it"
        )
    if found.current:
        return f"{found.schema:02}, current"
    behind = found.schema < found.schema_needed
    return f"{found.schema:02}, this program needs {found.schema_needed:02}: " + (
        "mer-migrate upgrade" if behind else "update mer"
    )


def _names(names: tuple[str, ...] | None) -> str | None:
    return ", ".join(names) or "none" if names is not None else None


def _fields(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__struct_fields__}
