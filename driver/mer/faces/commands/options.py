"""Options that several commands share, and how their values are read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from mer.core.errors import UsageError
from mer.core.records import MAX_PAGE, PAGE
from mer.setting_kinds import Kind, read

F = TypeVar("F", bound=Callable[..., Any])


class Seconds(click.ParamType[float]):
    """A time that somebody is ready to wait; what a setting in seconds allows."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(read(Kind.SECONDS, value))
        except ValueError as error:
            self.fail(f"{str(value)[:80]!r}: {error} is meant", param, ctx)


SECONDS = Seconds()


def paging(what: str) -> Callable[[F], F]:
    """Add --limit and --after; `what` is the key of the last one on the page before."""

    def decorate(function: F) -> F:
        function = click.option("--after", metavar=what, help=f"Go on behind this {what.lower()}.")(function)
        return click.option(
            "--limit", type=click.IntRange(1, MAX_PAGE), default=PAGE, show_default=True, help="How many at once."
        )(function)

    return decorate


def retired(function: F) -> F:
    """Add --retired."""
    return click.option("--retired", is_flag=True, help="Show those that were retired, too.")(function)


def yes(function: F) -> F:
    """Add --yes."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask.")(function)


def describing(function: F) -> F:
    """Add --description and --label."""
    function = click.option(
        "--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be given several times."
    )(function)
    return click.option("--description", help="What people should know of it.")(function)


def unlabelling(function: F) -> F:
    """Add --remove-label."""
    return click.option("--remove-label", "removed", multiple=True, metavar="KEY", help="Take a label away.")(function)


def pairs(texts: Iterable[str], *, option: str) -> dict[str, str]:
    """Return KEY=VALUE texts as a mapping.

    Raises:
        UsageError: one has no `=`, or a key stands twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} {text[:80]!r}: KEY=VALUE is meant")
        if key in found:
            raise UsageError(f"{option} gives {key!r} twice")
        found[key] = value
    return found


def label_changes(given: Iterable[str], removed: Iterable[str]) -> dict[str, str | None] | None:
    """Return what --label and --remove-label ask for, a None for each to take away; None where nothing was asked for."""
    changes: dict[str, str | None] = {**dict.fromkeys(removed), **pairs(given, option="--label")}
    return changes or None


def labels_text(labels: Mapping[str, str]) -> str:
    """Return labels as they are typed."""
    return " ".join(f"{key}={value}" for key, value in labels.items())
