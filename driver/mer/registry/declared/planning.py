"""From a file and what the registry holds to the steps between them. Pure: nothing is read or written here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from mer.core.carton.document import Fault
from mer.core.records import LOCAL, Digest, Model, Placement, Server, Weights
from mer.core.references import DEFAULT_ALIAS
from mer.registry.declared.contents import Contents, VersionContent, WeightsContent
from mer.registry.declared.lines import Path
from mer.registry.declared.numbering import Numbered, number_versions
from mer.registry.declared.records import (
    Declaration,
    DeclaredModel,
    DeclaredPlacement,
    DeclaredServer,
    DeclaredVersion,
    DeclaredWeights,
    DeclaredWeightsVersion,
)
from mer.registry.declared.standing import Standing, StandingModel
from mer.registry.declared.steps import (
    CreateServer,
    CreateVersion,
    CreateWeights,
    Describe,
    MoveAlias,
    Noun,
    Place,
    Plan,
    Retire,
    Step,
    Unplace,
)
from mer.registry.models import Parts


def make_plan(
    declaration: Declaration, standing: Standing, contents: Contents, *, prune: bool, faulty: frozenset[Path]
) -> tuple[Plan, list[Fault]]:
    """Return the steps, in order, and every reason why they cannot be taken.

    `faulty` are the tables that have a fault already, as in `("models", "digits")`: nothing more is told of them.
    """
    planner = _Planner(declaration, standing, contents, faulty)
    for server in declaration.servers.values():
        planner.server(server)
    for weights in declaration.weights.values():
        planner.weights(weights)
    for model in declaration.models.values():
        planner.model(model, prune=prune)
    if prune:
        planner.prune()
    steps = (*planner.steps, *planner.retired_versions, *planner.retired_nouns())
    return Plan(steps=steps), planner.faults


class _Planner:
    def __init__(
        self, declaration: Declaration, standing: Standing, contents: Contents, faulty: frozenset[Path]
    ) -> None:
        self.declaration = declaration
        self.standing = standing
        self.contents = contents
        self.faulty = faulty
        self.steps: list[Step] = []
        self.retired_versions: list[Step] = []
        self.faults: list[Fault] = []
        self._retired: dict[Noun, list[str]] = {Noun.MODEL: [], Noun.WEIGHTS: [], Noun.SERVER: []}
        self._digests: dict[str, tuple[dict[int, Digest], int]] = {}
        """Of the file's weights: what each number is, and which one the bare name means."""

    def retired_nouns(self) -> list[Step]:
        """Return what is retired whole, last: what it is needed for has come before."""
        return [Retire(noun=noun, name=name) for noun, names in self._retired.items() for name in names]

    def server(self, server: DeclaredServer) -> None:
        if server.path in self.faulty:
            return
        found = self.standing.servers.get(server.name)
        if found is None:
            self.steps.append(
                CreateServer(
                    name=server.name,
                    kind=server.kind,
                    parameters=server.parameters,
                    description=server.description or "",
                    labels=server.labels or {},
                )
            )
        elif self._comes_back(server, found.retired_at):
            return
        else:
            parameters = _changes(found.parameters, server.parameters)
            self._describe(Noun.SERVER, server, found, parameters=parameters)
        self._retire(Noun.SERVER, server, found)

    def weights(self, weights: DeclaredWeights) -> None:
        if weights.path in self.faulty:
            return
        found = self.standing.weights.get(weights.name)
        if found is not None and self._comes_back(weights, found.weights.retired_at):
            return
        standing = {version.number: version.digest for version in found.versions} if found else {}
        by_path = self.contents.weights
        declared = [(version, by_path[version.path].digest) for version in weights.versions]
        numbered, faults = number_versions(declared, standing)
        self.faults += faults
        if not declared and found is None:
            self.faults.append(Fault(weights.path, "has no versions: weights are made with their first one"))
        if found is not None and found.weights.retired_at is not None:
            self._refuse_new(numbered)
        self._digests[weights.name] = (
            standing | {each.number: each.content for each in numbered},
            numbered[-1].number if numbered else max(standing, default=0),
        )
        self.steps += [_create_weights(weights, each, by_path[each.version.path]) for each in numbered if each.new]
        if found is not None:
            self._describe(Noun.WEIGHTS, weights, found.weights)
        self._retire(Noun.WEIGHTS, weights, found.weights if found else None)

    def model(self, model: DeclaredModel, *, prune: bool) -> None:
        if model.path in self.faulty:
            return
        found = self.standing.models.get(model.name)
        if found is not None and self._comes_back(model, found.model.retired_at):
            return
        before = len(self.faults)
        declared = [(version, self._parts(version)) for version in model.versions]
        known = [(version, parts) for version, parts in declared if parts is not None]
        if len(known) < len(declared) or len(self.faults) > before:
            return
        if not declared and found is None:
            self.faults.append(Fault(model.path, "has no versions: a model is made with its first one"))
            return
        retired = found.retired if found else frozenset()
        numbered, faults = number_versions(known, _parts_by_number(found), retired=retired)
        self.faults += faults
        if faults:
            return
        if found is not None and found.model.retired_at is not None:
            self._refuse_new(numbered)
        for each in numbered:
            if each.new:
                self.steps.append(_create_version(model, each, self.contents.versions[each.version.path]))
        if found is not None:
            self._describe(Noun.MODEL, model, found.model)
        self._aliases(model, found, numbered, prune=prune)
        self._placements(model, found, numbered, prune=prune)
        self._retire_versions(model, numbered, retired)
        self._retire(Noun.MODEL, model, found.model if found else None)

    def prune(self) -> None:
        """Retire what the file names nowhere."""
        named_servers = {LOCAL, *self.declaration.servers}
        named_weights = set(self.declaration.weights)
        for model in self.declaration.models.values():
            named_servers |= {placement.server for placement in model.placements}
            named_weights |= {version.weights.name for version in model.versions if version.weights}
        for name, found in sorted(self.standing.models.items()):
            if name not in self.declaration.models and found.model.retired_at is None:
                self._retired[Noun.MODEL].append(name)
        for name, weights in sorted(self.standing.weights.items()):
            if name not in named_weights and weights.weights.retired_at is None:
                self._retired[Noun.WEIGHTS].append(name)
        for name, server in sorted(self.standing.servers.items()):
            if name not in named_servers and server.retired_at is None:
                self._retired[Noun.SERVER].append(name)

    def _parts(self, version: DeclaredVersion) -> Parts | None:
        """Return what a version consists of; None where that has a fault."""
        weights = version.weights_digest
        if version.weights is not None:
            weights = self._weights_digest(version)
            if weights is None:
                return None
        content = self.contents.versions[version.path]
        return Parts(spec=content.spec, package=content.package, weights=weights)

    def _weights_digest(self, version: DeclaredVersion) -> Digest | None:
        assert version.weights is not None
        name, number = version.weights.name, version.weights.version
        if ("weights", name) in self.faulty:
            return None
        if name in self.declaration.weights:
            if name not in self._digests:
                return None  # they have a fault that was told
            digests, newest = self._digests[name]
        else:
            found = self.standing.weights.get(name)
            why = "are not in the file and not registered" if found is None else None
            if found is not None and found.weights.retired_at is not None:
                why = f"were retired on {found.weights.retired_at:%Y-%m-%d}"
            if found is None or why is not None:
                self.faults.append(Fault((*version.path, "weights"), f"cannot be used: the weights {name} {why}"))
                return None
            digests = {each.number: each.digest for each in found.versions}
            newest = max(digests, default=0)
        digest = digests.get(number or newest)
        if digest is None:
            self.faults.append(Fault((*version.path, "weights"), f"is {version.weights}: there is no such version"))
        return digest

    def _comes_back(
        self, declared: DeclaredServer | DeclaredWeights | DeclaredModel, retired_at: dt.datetime | None
    ) -> bool:
        """Note that what is retired stays so."""
        if retired_at is None or declared.retired:
            return False
        why = f"was retired on {retired_at:%Y-%m-%d}; its name stays taken (retired = true says that it is)"
        self.faults.append(Fault(declared.path, why))
        return True

    def _refuse_new(self, numbered: list[Numbered[Any, Any]]) -> None:
        for each in numbered:
            if each.new:
                self.faults.append(Fault(each.version.path, "cannot be registered: what it belongs to was retired"))

    def _describe(
        self,
        noun: Noun,
        declared: DeclaredServer | DeclaredWeights | DeclaredModel,
        found: Server | Weights | Model,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        description = declared.description if declared.description != found.description else None
        labels = None if declared.labels is None else _changes(found.labels, declared.labels)
        if description is not None or labels or parameters:
            self.steps.append(
                Describe(
                    noun=noun,
                    name=declared.name,
                    description=description,
                    labels=labels or None,
                    parameters=parameters or None,
                )
            )

    def _retire(
        self,
        noun: Noun,
        declared: DeclaredServer | DeclaredWeights | DeclaredModel,
        found: Server | Weights | Model | None,
    ) -> None:
        if declared.retired and (found is None or found.retired_at is None):
            self._retired[noun].append(declared.name)

    def _aliases(
        self,
        model: DeclaredModel,
        found: StandingModel | None,
        numbered: list[Numbered[DeclaredVersion, Parts]],
        *,
        prune: bool,
    ) -> None:
        # the first version of a new model is what its bare name means, as with every registration
        current = found.aliases if found else {DEFAULT_ALIAS: 1}
        wanted = {alias: each for each in numbered for alias in each.version.aliases}
        for alias, each in wanted.items():
            if current.get(alias) == each.number:
                continue
            if found is not None and each.number in found.retired:
                path = (*each.version.path, "aliases")
                self.faults.append(Fault(path, f"cannot move {alias} to {each.number}, which was retired"))
            self.steps.append(MoveAlias(model=model.name, alias=alias, version=each.number, before=current.get(alias)))
        for alias, number in sorted(current.items()):
            away = model.without_default if alias == DEFAULT_ALIAS else prune and alias not in wanted
            if away:
                self.steps.append(MoveAlias(model=model.name, alias=alias, version=None, before=number))

    def _placements(
        self,
        model: DeclaredModel,
        found: StandingModel | None,
        numbered: list[Numbered[DeclaredVersion, Parts]],
        *,
        prune: bool,
    ) -> None:
        current = found.placements if found else {}
        numbers = {each.number for each in numbered} | set(_parts_by_number(found))
        for placement in model.placements:
            if not _same_place(placement, current.get(placement.server)):
                self._refuse_place(placement, found, numbers)
                self.steps.append(
                    Place(
                        model=model.name,
                        server=placement.server,
                        version=placement.version,
                        device=placement.device,
                        path=placement.path_there,
                    )
                )
        if prune:
            listed = {placement.server for placement in model.placements}
            self.steps += [Unplace(model=model.name, server=server) for server in sorted(set(current) - listed)]

    def _refuse_place(self, placement: DeclaredPlacement, found: StandingModel | None, numbers: set[int]) -> None:
        def refuse(key: str, why: str) -> None:
            self.faults.append(Fault((*placement.path, key), why))

        server = self.standing.servers.get(placement.server)
        if server is not None and server.retired_at is not None:
            refuse("server", f"is {placement.server}, which was retired on {server.retired_at:%Y-%m-%d}")
        elif server is None and placement.server not in self.declaration.servers:
            refuse("server", f"is {placement.server}, which is not in the file and not registered")
        if placement.version is not None and placement.version not in numbers:
            refuse("version", f"is {placement.version}, and there is no such version")
        if found is not None and placement.version in found.retired:
            refuse("version", f"is {placement.version}, which was retired")
        if found is not None and found.model.retired_at is not None:
            refuse("server", "cannot be: the model was retired")

    def _retire_versions(
        self, model: DeclaredModel, numbered: list[Numbered[DeclaredVersion, Parts]], retired: frozenset[int]
    ) -> None:
        for each in numbered:
            if each.version.retired and each.number not in retired:
                self.retired_versions.append(Retire(noun=Noun.VERSION, name=f"{model.name}:{each.number}"))
            if each.number in retired and not each.version.retired:
                self.faults.append(
                    Fault(each.version.path, f"is version {each.number}, which was retired, and stays so")
                )


def _create_weights(
    weights: DeclaredWeights, each: Numbered[DeclaredWeightsVersion, Digest], content: WeightsContent
) -> CreateWeights:
    return CreateWeights(
        name=weights.name,
        number=each.number,
        content=content,
        description=weights.description,
        labels=weights.labels,
    )


def _create_version(
    model: DeclaredModel, each: Numbered[DeclaredVersion, Parts], content: VersionContent
) -> CreateVersion:
    return CreateVersion(
        name=model.name,
        number=each.number,
        content=content,
        parts=each.content,
        description=model.description,
        labels=model.labels,
    )


def _parts_by_number(found: StandingModel | None) -> dict[int, Parts]:
    versions = found.versions if found else ()
    return {each.number: Parts(spec=each.spec, package=each.package, weights=each.weights) for each in versions}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return what turns one mapping into the other: a None takes a key away."""
    changed = {key: value for key, value in after.items() if key not in before or before[key] != value}
    return {**changed, **dict.fromkeys(before.keys() - after.keys())}


def _same_place(declared: DeclaredPlacement, found: Placement | None) -> bool:
    if found is None:
        return False
    return (declared.version, declared.device, declared.path_there) == (found.version, found.device, found.path)
