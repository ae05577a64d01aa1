"""The text of a registry file as a Declaration, with every fault noted where it stands. Nothing is looked up here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from mer.core.carton.document import Fault, Table
from mer.core.carton.reading import read_spec
from mer.core.carton.rules import COMMAND, SPEC_VERSION, spec_faults
from mer.core.errors import MerError, RegistryFileInvalid
from mer.core.lent import RUNNER as LENT
from mer.core.manifest import is_digest
from mer.core.records import LOCAL, Digest, ServerKind
from mer.core.references import DEFAULT_ALIAS, MAX_VERSION, Reference, check_name, parse_reference
from mer.core.specs import Command, VersionSpec
from mer.registry.declared.lines import Lines, TooDeep, find_lines
from mer.registry.declared.records import (
    Declaration,
    DeclaredModel,
    DeclaredPlacement,
    DeclaredServer,
    DeclaredVersion,
    DeclaredWeights,
    DeclaredWeightsVersion,
)
from mer.registry.describing import check_description, check_labels, check_text
from mer.registry.models import check_command
from mer.registry.placements import MAX_LENGTH
from mer.registry.servers import check_parameters

FORMAT = 1
"""The form of registry files that is read and written here."""

MAX_BYTES = 8 << 20
"""Of a registry file: it is read whole, and 10,000 versions with their digests fit."""

MAX_ENTRIES = 50_000
"""Servers, weights, models, versions and placements of one file together: each may become a transaction."""

T = TypeVar("T")
_ABOUT = ("description", "labels", "retired")
_CONTENT = ("package", "digest", "command", "directory", "carton")


def read_declaration(text: str, *, name: str) -> tuple[Declaration, Lines, list[Fault]]:
    """Return what a registry file says, where its keys stand, and what is wrong with it. `name` is for words.

    Raises:
        RegistryFileInvalid: it is no TOML, of another format, or has too many entries.
    """
    try:
        document = tomllib.loads(text)
        lines = find_lines(text.replace("\r\n", "\n"))
    except (ValueError, RecursionError, TooDeep) as error:
        # ValueError: TOMLDecodeError is one, which tells line and column, and so is what int() says of 5000 digits
        words = str(error).replace("at end of document", f"at line {text.count(chr(10)) + 1}, the end")
        raise RegistryFileInvalid(f"{name}: {words}") from error
    faults: list[Fault] = []
    root = Table(document, faults=faults)
    form = root.needed_integer("format")
    if form != FORMAT:
        if not faults:
            root.fault("format", f"is {form}; this program reads {FORMAT}")
        told = "; ".join(f"line {lines.of(fault.path)}: {fault}" for fault in faults)
        raise RegistryFileInvalid(f"{name}: {told}")
    root.only(("format", "servers", "weights", "models"))
    reader = _Reader()
    declaration = Declaration(
        servers={name: reader.server(name, table) for name, table in reader.named(root.table("servers"))},
        weights={name: reader.weights(name, table) for name, table in reader.named(root.table("weights"))},
        models={name: reader.model(name, table) for name, table in reader.named(root.table("models"))},
    )
    if reader.entries > MAX_ENTRIES:
        raise RegistryFileInvalid(f"{name} has {reader.entries} entries; {MAX_ENTRIES} are the most")
    return declaration, lines, faults


class _Reader:
    def __init__(self) -> None:
        self.entries = 0

    def named(self, parent: Table) -> Iterator[tuple[str, Table]]:
        seen: set[str] = set()
        for key in parent.values:
            self.entries += 1
            name = _checked(parent, key, check_name, key)
            if name in seen:
                parent.fault(key, "is the same name as another: they differ only in how a character is composed")
            if name is not None:
                seen.add(name)
                yield name, parent.table(key)

    def rows(self, parent: Table, key: str) -> Iterator[Table]:
        for row in parent.tables(key):
            self.entries += 1
            yield row

    def server(self, name: str, table: Table) -> DeclaredServer:
        kind = ServerKind.LOCAL if name == LOCAL else ServerKind.SSH
        given = table.text("kind")
        if given is not None and given != kind.value:
            table.fault("kind", f"is {given!r}: the server {name} is of kind {kind.value}")
        retired = _flag(table, "retired")
        if retired and kind is ServerKind.LOCAL:
            table.fault("retired", "cannot be: the local server is always there")
        parameters = {key: value for key, value in table.values.items() if key not in (*_ABOUT, "kind")}
        checked = _checked(table, None, check_parameters, kind, parameters)
        return DeclaredServer(
            path=table.path, name=name, kind=kind, parameters=checked or {}, retired=retired, **_about(table)
        )

    def weights(self, name: str, table: Table) -> DeclaredWeights:
        table.only((*_ABOUT, "versions"))
        versions = tuple(map(_weights_version, self.rows(table, "versions")))
        _check_numbers(table, versions)
        return DeclaredWeights(
            path=table.path, name=name, retired=_flag(table, "retired"), versions=versions, **_about(table)
        )

    def model(self, name: str, table: Table) -> DeclaredModel:
        table.only((*_ABOUT, "without_default", "versions", "placements"))
        versions = tuple(map(_version, self.rows(table, "versions")))
        placements = tuple(map(_placement, self.rows(table, "placements")))
        without_default = _flag(table, "without_default")
        _check_numbers(table, versions)
        _check_aliases(table, versions, without_default=without_default)
        servers: set[str] = set()
        for placement in placements:
            if placement.server in servers:
                faults = Table({}, path=placement.path, faults=table.faults)
                faults.fault("server", f"{placement.server} has a placement of this model already")
            servers.add(placement.server)
        return DeclaredModel(
            path=table.path,
            name=name,
            retired=_flag(table, "retired"),
            without_default=without_default,
            versions=versions,
            placements=placements,
            **_about(table),
        )


def _weights_version(row: Table) -> DeclaredWeightsVersion:
    row.only(("number", "file", "digest"))
    _one_of(row, ("file", "digest"))
    return DeclaredWeightsVersion(
        path=row.path, number=_number(row, "number"), file=_place(row, "file"), digest=_digest(row, "digest")
    )


def _version(row: Table) -> DeclaredVersion:
    row.only((*_CONTENT, "number", "weights", "weights_digest", "aliases", "retired"))
    number, retired = _number(row, "number"), _flag(row, "retired")
    if retired and "number" not in row.values:
        row.fault("retired", "needs a number beside it: which version was meant must not depend on its content")
    if "weights" in row.values and "weights_digest" in row.values:
        row.fault("weights_digest", "is there and weights too: say it in one place")
    aliases = []
    for alias in row.texts("aliases"):
        name = _checked(row, "aliases", partial(check_name, what="alias"), alias)
        aliases.append(name or alias)
    return DeclaredVersion(
        path=row.path,
        number=number,
        package=_place(row, "package"),
        digest=_digest(row, "digest"),
        spec=_spec(row),
        weights=_weights_reference(row),
        weights_digest=_digest(row, "weights_digest"),
        aliases=tuple(aliases),
        retired=retired,
    )


def _spec(row: Table) -> VersionSpec | None:
    """Return the spec that stands in the file; None where the package says it."""
    if "command" in row.values and "carton" in row.values:
        row.fault("carton", "is there and command too: say it in one place")
        return None
    if "directory" in row.values and "command" not in row.values:
        row.fault("directory", "is for a command, and there is none")
    if "command" in row.values:
        _one_of(row, ("command", "package", "digest"))
        command = Command(argv=row.texts("command"), directory=row.text("directory"))
        return _standing_alone(row, "command", VersionSpec(runner=COMMAND, command=command))
    if "carton" not in row.values:
        _one_of(row, ("package", "digest", "command"))
        return None
    if "digest" in row.values:
        row.fault("carton", "is there and digest too: a package of the content store says how it runs")
        return None
    before = len(row.faults)
    spec = _carton(row.table("carton"))
    if len(row.faults) > before:
        return None
    if "package" in row.values:
        _note_all(row, "carton", spec_faults(spec))
        return spec
    if spec.command is None and spec.runner != LENT:
        row.fault("carton", "has no mer.command, and there is no package: a version is made from one of them")
        return None
    return _standing_alone(row, "carton", spec)


def _carton(table: Table) -> VersionSpec:
    """Read a carton.toml's keys; the three that every one of them has may be left out here."""
    values = {"spec_version": SPEC_VERSION, **table.values}
    if isinstance(runner := values.get("runner"), dict):
        values["runner"] = {"required_framework_version": "*", "runner_compat_version": 1, **runner}
    if values["spec_version"] != SPEC_VERSION:
        table.fault("spec_version", f"is {values['spec_version']!r}; this program reads {SPEC_VERSION}")
    return read_spec(Table(values, path=table.path, faults=table.faults))


def _standing_alone(row: Table, key: str, spec: VersionSpec) -> VersionSpec:
    """Check the spec of a command that the host has: where it stands must not depend on any folder; or of a lent version."""
    told = spec_faults(spec)
    _note_all(row, key, told)
    command = spec.command
    if told or command is None:
        return spec
    _checked(row, key, check_command, command)
    for what, path in (("the program", command.argv[0]), ("the directory", command.directory)):
        if path is not None and not path.startswith("/"):
            row.fault(key, f"has {what} {path!r}: without a package it must be an absolute path")
    return spec


def _placement(row: Table) -> DeclaredPlacement:
    row.only(("server", "version", "device", "path"))
    server = row.needed_text("server")
    for key in ("device", "path"):
        text = row.text(key) or ""
        if len(text) > MAX_LENGTH:
            row.fault(key, f"has {len(text)} characters, at most {MAX_LENGTH} are kept")
        _checked(row, key, check_text, text, "it")
    name = _checked(row, "server", check_name, server) if server else None
    return DeclaredPlacement(
        path=row.path,
        server=name or server,
        version=_number(row, "version"),
        device=row.text("device"),
        path_there=row.text("path"),
    )


def _weights_reference(row: Table) -> Reference | None:
    text = row.text("weights")
    if text is None:
        return None
    reference = _checked(row, "weights", parse_reference, text)
    if reference is not None and reference.alias is not None:
        row.fault("weights", "names an alias, and weights have none: write NAME or NAME:VERSION")
        return None
    return reference


def _about(table: Table) -> dict[str, Any]:
    """Return the description and the labels, each None where nothing is said."""
    description, labels = table.text("description"), table.table("labels").values if "labels" in table.values else None
    if description is not None:
        _checked(table, "description", check_description, description)
    if labels is not None:
        wrong = [key for key, value in labels.items() if not isinstance(value, str)]
        for key in wrong:
            table.table("labels").fault(key, "is no string")
        if not wrong:
            _checked(table, "labels", check_labels, labels)
    return {"description": description, "labels": labels}


def _check_numbers(table: Table, versions: Sequence[DeclaredVersion | DeclaredWeightsVersion]) -> None:
    seen: set[int] = set()
    for index, version in enumerate(versions):
        if version.number is not None and version.number in seen:
            table.fault("versions", f"has the number {version.number} twice", index=index)
        seen.add(version.number or 0)


def _check_aliases(table: Table, versions: tuple[DeclaredVersion, ...], *, without_default: bool) -> None:
    seen: set[str] = {DEFAULT_ALIAS} if without_default else set()
    for index, version in enumerate(versions):
        for alias in version.aliases:
            if alias in seen:
                why = "is to mean nothing" if alias == DEFAULT_ALIAS and without_default else "stands twice"
                table.fault("versions", f"has the alias {alias!r}, which {why}", index=index)
            seen.add(alias)


def _number(row: Table, key: str) -> int | None:
    value = row.values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_VERSION:
        row.fault(key, "is no version: versions are numbered 1, 2, 3 …")
        return None
    return value


def _digest(row: Table, key: str) -> Digest | None:
    text = row.text(key)
    if text is None:
        return None
    if not is_digest(text):
        row.fault(key, "is no digest: 64 lower-case hexadecimal digits are meant")
        return None
    return Digest(text)


def _place(row: Table, key: str) -> str | None:
    text = row.text(key)
    if text is not None and (not text or "\0" in text or len(text) > MAX_LENGTH):
        row.fault(key, "is no path")
        return None
    return text


def _flag(row: Table, key: str) -> bool:
    value = row.values.get(key, False)
    if not isinstance(value, bool):
        row.fault(key, "is neither true nor false")
        return False
    return value


def _one_of(row: Table, keys: tuple[str, ...]) -> None:
    given = [key for key in keys if key in row.values]
    if not given:
        row.faults.append(Fault(row.path, f"has no {' and no '.join(keys)}: one of them is meant"))
    for key in given[1:]:
        row.fault(key, f"is there and {given[0]} too: one of them is meant")


def _note_all(row: Table, key: str, whys: list[str]) -> None:
    for why in whys:
        row.fault(key, f"cannot stand: {re.sub(r'^mer[.]command[.]', '', why)}")


def _checked(table: Table, key: str | None, check: Callable[..., T], *given: object) -> T | None:
    """Return what the check of the registry returns; note what it raises."""
    try:
        return check(*given)
    except MerError as error:
        if key is None:
            table.faults.append(Fault(table.path, f"cannot stand: {error.message}"))
        else:
            table.fault(key, f"cannot stand: {error.message}")
        return None
