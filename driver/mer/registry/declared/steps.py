"""The steps from what the registry holds to what its file says: each is one change through one use-case."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeAlias

import msgspec

from mer.core.records import ServerKind
from mer.registry.declared.contents import VersionContent, WeightsContent
from mer.registry.models import Parts


class Action(StrEnum):
    """What is done, in the word that a plan shows."""

    CREATE = "create"
    CHANGE = "change"
    MOVE_ALIAS = "move alias"
    REMOVE_ALIAS = "remove alias"
    PLACE = "place"
    UNPLACE = "unplace"
    RETIRE = "retire"


class Noun(StrEnum):
    """What can be described and retired."""

    SERVER = "server"
    WEIGHTS = "weights"
    MODEL = "model"
    VERSION = "version"


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A step as it is told."""

    action: Action
    what: str
    """A noun and a name: `version digits:2`."""
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.action.value} {self.what}" + (f": {self.detail}" if self.detail else "")


class CreateServer(msgspec.Struct, frozen=True, kw_only=True):
    """Register a server."""

    name: str
    kind: ServerKind
    parameters: dict[str, Any]
    description: str
    labels: dict[str, str]

    def line(self) -> Line:
        """Return the step as it is told."""
        return Line(action=Action.CREATE, what=f"server {self.name}", detail=str(self.parameters.get("address", "")))


class Describe(msgspec.Struct, frozen=True, kw_only=True):
    """Change what is said of a server, weights or a model, and how a server is reached; None leaves it as it is."""

    noun: Noun
    name: str
    description: str | None = None
    labels: Mapping[str, str | None] | None = None
    parameters: Mapping[str, Any] | None = None

    def line(self) -> Line:
        """Return the step as it is told."""
        changed = [
            f"{field} {', '.join(sorted(changes))}"
            for field, changes in (("labels", self.labels), ("parameters", self.parameters))
            if changes
        ]
        if self.description is not None:
            changed.insert(0, "description")
        return Line(action=Action.CHANGE, what=f"{self.noun.value} {self.name}", detail="; ".join(changed))


class CreateWeights(msgspec.Struct, frozen=True, kw_only=True):
    """Register a version of weights; the weights are made with the first, with what is said of them."""

    name: str
    number: int
    content: WeightsContent
    description: str | None
    labels: dict[str, str] | None

    def line(self) -> Line:
        """Return the step as it is told."""
        return Line(
            action=Action.CREATE, what=f"weights {self.name}:{self.number}", detail=f"digest {self.content.digest}"
        )


class CreateVersion(msgspec.Struct, frozen=True, kw_only=True):
    """Register a version of a model; the model is made with the first, with what is said of it."""

    name: str
    number: int
    content: VersionContent
    parts: Parts
    description: str | None
    labels: dict[str, str] | None

    def line(self) -> Line:
        """Return the step as it is told."""
        parts = self.parts
        command = " ".join(parts.spec.command.argv) if parts.spec.command else ""
        made_of = f"package {parts.package}" if parts.package else f"command {command}"
        weights = f", weights {parts.weights}" if parts.weights else ""
        return Line(action=Action.CREATE, what=f"version {self.name}:{self.number}", detail=made_of + weights)


class MoveAlias(msgspec.Struct, frozen=True, kw_only=True):
    """Let an alias mean a version, or nothing."""

    model: str
    alias: str
    version: int | None
    before: int | None

    def line(self) -> Line:
        """Return the step as it is told."""
        what = f"{self.model}@{self.alias}"
        if self.version is None:
            return Line(action=Action.REMOVE_ALIAS, what=what, detail=f"it means version {self.before}")
        before = f", {self.before} before" if self.before else ""
        return Line(action=Action.MOVE_ALIAS, what=what, detail=f"to version {self.version}{before}")


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Place a model on a server."""

    model: str
    server: str
    version: int | None
    device: str | None
    path: str | None

    @property
    def reference(self) -> str:
        """What is placed: a model, or a version of it."""
        return self.model if self.version is None else f"{self.model}:{self.version}"

    def line(self) -> Line:
        """Return the step as it is told."""
        detail = ", ".join(f"{what} {value}" for what, value in (("device", self.device), ("path", self.path)) if value)
        return Line(action=Action.PLACE, what=f"{self.reference} on {self.server}", detail=detail)


class Unplace(msgspec.Struct, frozen=True, kw_only=True):
    """Take a placement away."""

    model: str
    server: str

    def line(self) -> Line:
        """Return the step as it is told."""
        return Line(action=Action.UNPLACE, what=f"{self.model} on {self.server}")


class Retire(msgspec.Struct, frozen=True, kw_only=True):
    """Take something out of use."""

    noun: Noun
    name: str

    def line(self) -> Line:
        """Return the step as it is told."""
        return Line(action=Action.RETIRE, what=f"{self.noun.value} {self.name}")


Step: TypeAlias = CreateServer | Describe | CreateWeights | CreateVersion | MoveAlias | Place | Unplace | Retire


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done, in order."""

    steps: tuple[Step, ...]

    def lines(self) -> tuple[Line, ...]:
        """Return each step as it is told."""
        return tuple(step.line() for step in self.steps)

    @property
    def taking_away(self) -> int:
        """How many steps take something out of use or away."""
        taking = (Action.RETIRE, Action.UNPLACE, Action.REMOVE_ALIAS)
        return sum(line.action in taking for line in self.lines())
