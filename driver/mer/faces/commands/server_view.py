"""How servers, the way to them and their keys are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from mer.core.records import Server
from mer.execution.addresses import Import
from mer.faces.commands.options import labels_text
from mer.faces.face import Face
from mer.faces.render.table import Column, details
from mer.meal.host import AddressValue, HostKey

IMPORT_COLUMNS = (Column("name", whole=True), Column("standing", whole=True), Column("detail"))


def row(server: Server) -> tuple[str, ...]:
    """Return a server's line in a list."""
    name = f"{server.name} (retired)" if server.retired_at else server.name
    return name, server.kind.value, address_text(server), server.description, labels_text(server.labels)


def address_text(server: Server) -> str:
    """Return the recorded address as people write it; "" for this machine."""
    known = server.parameters
    user = f"{known['user']}@" if known.get("user") else ""
    return f"{user}{known.get('address', '')}" + (f":{known['port']}" if known.get("port") else "")


def show_server(face: Face, server: Server, effective: Mapping[str, AddressValue] | None = None) -> None:
    """Write a server; with `effective`, what takes effect when it is reached, and where each value came from."""
    console = face.console

    def text() -> str:
        fields = {
            "name": server.name,
            "kind": server.kind.value,
            "address": address_text(server) or None,
            "jump": ", ".join(server.parameters.get("jump", ())) or None,
            "password from": server.parameters.get("password_from"),
            "via": server.parameters.get("via"),
            "python": server.parameters.get("python"),
            "description": server.description or None,
            "labels": labels_text(server.labels) or None,
            "registered": console.time(server.created_at),
            "retired": console.time(server.retired_at) if server.retired_at else None,
            "id": server.id,
        }
        told = details(console, fields)
        if effective:
            told += "\n" + details(
                console, {name: f"{known.value}  ({known.origin})" for name, known in effective.items()}
            )
        return told

    document = msgspec.to_builtins(server)
    if effective:
        document["effective"] = {
            name.replace(" ", "_"): {"value": known.value, "origin": known.origin} for name, known in effective.items()
        }
    face.show(document, text)


def show_import(face: Face, found: Sequence[Import], *, planned: bool) -> None:
    """Write what an import did, or would do."""
    if face.console.json:
        face.console.document({"planned": planned, "hosts": found})
        return
    face.console.table(IMPORT_COLUMNS, [(one.name, one.standing.value, one.detail) for one in found])


def question_of(key: HostKey) -> str:
    """Return what is to be known of a key before it is trusted."""
    lines = [f"{key.host} shows {key.kind} {key.fingerprint}"]
    if key.verdict == "changed":
        lines.append(f"This is not the key by which it is known: {'; '.join(key.known)}")
        lines.append("Either it was changed there, or another machine answers in its place.")
    lines.append("Compare it with what the machine itself says: ssh-keygen -lf /etc/ssh/ssh_host_*.pub")
    return "\n".join(lines)


def show_keys(face: Face, server: str, keys: Sequence[HostKey]) -> None:
    """Write the keys that are trusted now."""
    told = [
        {"host": key.host, "kind": key.kind, "fingerprint": key.fingerprint, "was": key.verdict, "former": key.former}
        for key in keys
    ]

    def text() -> str:
        return "".join(
            f"{key.host} is trusted{' already' if key.verdict == 'trusted' else ''}: {key.kind} {key.fingerprint}\n"
            for key in keys
        )

    face.show({"server": server, "keys": told}, text)
