"""Settings: what is set, and where each value came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mer.core.errors import UsageError
from mer.faces.commands.tree import ENTRIES, Noun
from mer.faces.face import Face
from mer.faces.render.table import Column
from mer.faces.render.text import visible

if TYPE_CHECKING:
    from mer.settings import Setting, Settings

COLUMNS = (Column("setting", whole=True), Column("value"), Column("from"), Column("variable", spare=True))


@click.group(cls=Noun, help=ENTRIES["settings"].help)
def command() -> None:
    """Settings."""


@command.command("list")
@click.pass_obj
def list_settings(face: Face) -> None:
    """List every setting with its value and where that came from. Passwords are masked."""
    from mer.settings import SETTINGS

    settings = face.access.settings
    if face.console.json:
        face.console.document({"items": [_document(setting, settings) for setting in SETTINGS]})
        return
    rows = [(s.name, visible(_shown(s, settings)), settings.origin(s.name), s.variable) for s in SETTINGS]
    face.console.table(COLUMNS, rows)


@command.command()
@click.argument("name", metavar="SETTING")
@click.pass_obj
def show(face: Face, name: str) -> None:
    """Print one setting's value alone, for scripts."""
    from mer.settings import BY_NAME

    setting = BY_NAME.get(name.lower()) or next((s for s in BY_NAME.values() if s.variable == name), None)
    if setting is None:
        raise UsageError(f"there is no setting {name[:40]!r}", hint="mer settings list")
    face.show(_document(setting, face.access.settings), lambda: f"{visible(_shown(setting, face.access.settings))}\n")


def _shown(setting: Setting, settings: Settings) -> str:
    from mer.setting_kinds import masked

    return masked(setting.kind, getattr(settings, setting.name))


def _document(setting: Setting, settings: Settings) -> dict[str, Any]:
    return {
        "setting": setting.name,
        "value": _shown(setting, settings),
        "from": settings.origin(setting.name),
        "variable": setting.variable,
    }
