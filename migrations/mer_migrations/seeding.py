"""`mer-migrate seed`: a registry file applied through mer's own use-cases, so that every change is on record.

It logs in as `mer` does, not as the owner: seeding needs no right that the driver lacks.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from mer.core.errors import ConfirmationNeeded, Interrupted
from mer.registry.declared.steps import Plan
from mer.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Told:
    """What came of it."""

    plan: Plan
    applied: bool

    def text(self) -> str:
        """Return it for people: a line a change."""
        return "\n".join(map(_printable, map(str, self.plan.lines()))) or "nothing to change"

    def json(self) -> str:
        """Return it for programs: the document of `mer registry apply --json`."""
        changes = [
            {"action": line.action.value, "what": line.what, "detail": line.detail} for line in self.plan.lines()
        ]
        return json.dumps({"applied": self.applied, "changes": changes}, ensure_ascii=False)


def seed(
    settings: Settings, file: Path, *, environ: Mapping[str, str], only_plan: bool, prune: bool, yes: bool
) -> Told:
    """Apply the file to the database of the settings, or only plan it.

    Raises:
        RegistryFileInvalid, ChangesNotAllowed, ConfirmationNeeded, Busy, ContentError, DatabaseUnreachable, NotMigrated
    """
    return asyncio.run(_seed(settings, file, environ=environ, only_plan=only_plan, prune=prune, yes=yes))


async def _seed(
    settings: Settings, file: Path, *, environ: Mapping[str, str], only_plan: bool, prune: bool, yes: bool
) -> Told:
    from mer.__main__ import compose
    from mer.core.actor import Via
    from mer.surroundings import current_actor

    async with compose(settings, actor=current_actor(Via.ONE_SHOT, environ=environ)) as m:
        declared = m.declared
        plan = await declared.plan(file, prune=prune)
        if only_plan:
            return Told(plan=plan, applied=False)
        if prune and plan.taking_away and settings.allow_changes and not yes:
            await asyncio.to_thread(_confirm, plan)
        await declared.apply(m.actor, plan)
        return Told(plan=plan, applied=True)


def _confirm(plan: Plan) -> None:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfirmationNeeded
    for line in plan.lines():
        click.echo(_printable(str(line)), err=True)
    if not click.confirm(f"Make these {len(plan.steps)} changes?", err=True):
        raise Interrupted("nothing was changed")


def _printable(text: str) -> str:
    """Return `text` without what a terminal would act on: an argv may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
