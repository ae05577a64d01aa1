"""One model as `model show` shows it."""

from __future__ import annotations

from mer.core.carton.rules import ARRAYS
from mer.core.records import Placement, Server, Version
from mer.core.specs import TensorSpec, VersionSpec
from mer.faces.commands.options import labels_text
from mer.faces.commands.running import running_rows
from mer.faces.face import Face
from mer.faces.render.listing import show_page
from mer.faces.render.table import Column, details
from mer.registry.models import ModelView

KINDS = {
    "python": "a python package: code that runs as you",
    "command": "a program: code that runs as you",
    "torchscript": "a TorchScript file: code that runs as you, though it looks like data",
}

VERSION_COLUMNS = (
    Column("version", right=True, whole=True),
    Column("runner", whole=True),
    Column("state", whole=True),
    Column("registered", whole=True),
    Column("package", spare=True),
    Column("weights", spare=True),
)

PLACEMENT_COLUMNS = (
    Column("server", whole=True),
    Column("pinned", right=True, whole=True),
    Column("device"),
    Column("path"),
)


def kind_of_code(spec: VersionSpec) -> str:
    """Return what an operator should know before he runs it."""
    return KINDS.get(spec.runner, f"for the runner {spec.runner}: take it for code that runs as you")


def show_model(face: Face, view: ModelView, *, meant: Version | None, only: bool) -> None:
    """Write a model with the version that is meant in full, its aliases, placements and versions; or `only` that version."""
    console, model = face.console, view.model
    if console.json:
        console.document({"model": model, "code": kind_of_code(meant.spec) if meant else None, **_parts(view)})
        return
    aliases = " ".join(f"@{move.alias}={move.version}" for move in view.aliases)
    text = details(
        console,
        {
            "name": model.name,
            "description": model.description or None,
            "labels": labels_text(model.labels) or None,
            "aliases": aliases or None,
            "registered": console.time(model.created_at),
            "retired": console.time(model.retired_at) if model.retired_at else None,
            "id": model.id,
        },
    )
    console.result(text, end="")
    if meant is not None:
        console.result("\n" + _version(face, meant), end="")
    if view.placements and not only:
        console.result()
        console.table(PLACEMENT_COLUMNS, map(_placement_row, view.placements))
    if not only:
        console.result()
        show_page(console, view.versions, VERSION_COLUMNS, lambda version: _version_row(face, view, version))


def _parts(view: ModelView) -> dict[str, object]:
    return {
        "versions": {"items": view.versions.items, "next": view.versions.next},
        "retirements": view.retirements,
        "aliases": view.aliases,
        "placements": [{"placement": placement, "server": server.name} for placement, server in view.placements],
    }


def _version(face: Face, version: Version) -> str:
    spec = version.spec
    command = spec.command
    return details(
        face.console,
        {
            "version": str(version.number),
            "code": kind_of_code(spec),
            "summary": spec.short_description,
            "inputs": _specs(spec.inputs) or "not told",
            "outputs": _specs(spec.outputs) or "not told",
            "options": " ".join(f"{key}={value}" for key, value in spec.options.items()) or None,
            "argv": " ".join(command.argv) if command else None,
            "directory": command.directory if command else None,
            "arrays": spec.arrays if spec.arrays != ARRAYS[0] else None,
            **running_rows(face.console, spec),
            "package": version.package,
            "weights": version.weights,
        },
    )


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(map(str, specs))


def _version_row(face: Face, view: ModelView, version: Version) -> tuple[str, ...]:
    retired = any(retirement.number == version.number for retirement in view.retirements)
    named = ["@" + move.alias for move in view.aliases if move.version == version.number]
    state = "retired" if retired else " ".join(named)
    digests = ((version.package or "")[:12], (version.weights or "")[:12])
    if not face.console.terminal:
        digests = (version.package or "", version.weights or "")
    return str(version.number), version.spec.runner, state, face.console.time(version.created_at), *digests


def _placement_row(pair: tuple[Placement, Server]) -> tuple[str, ...]:
    placement, server = pair
    return server.name, str(placement.version or ""), placement.device or "", placement.path or ""
