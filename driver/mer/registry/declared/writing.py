"""A registry as the text of a registry file: the same registry gives the same bytes, content stands by digest."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from mer.core import carton, toml
from mer.core.errors import ConfigurationError
from mer.core.records import LOCAL, Digest, ServerKind, Version, WeightsVersion
from mer.core.references import DEFAULT_ALIAS
from mer.core.specs import Command, VersionSpec
from mer.registry.declared.reading import FORMAT, MAX_BYTES, MAX_ENTRIES
from mer.registry.declared.standing import Standing, StandingModel, StandingWeights

Values: TypeAlias = "Mapping[str, toml.Value | None]"


def write_declaration(standing: Standing) -> str:
    """Return the file that, applied to an empty registry beside the same content store, gives this registry.

    Raises:
        ConfigurationError: it would be too large to be applied.
    """
    blocks = [toml.pairs({"format": FORMAT}), *_servers(standing), *_weights(standing), *_models(standing)]
    text = "\n".join(blocks)
    # every entry is a table of its own, and no value goes over a line
    if len(text.encode()) > MAX_BYTES or text.count("\n[") > MAX_ENTRIES:
        raise ConfigurationError(
            f"the registry is too large for one file: {MAX_BYTES} bytes and {MAX_ENTRIES} entries are the most"
        )
    return text


def _servers(standing: Standing) -> Iterator[str]:
    for name, server in sorted(standing.servers.items()):
        if server.kind is ServerKind.LOCAL and not (server.description or server.labels):
            continue  # it is there anyway
        about = _about(server.description, server.labels, retired=server.retired_at is not None)
        kind = {} if name == LOCAL else {"kind": server.kind.value}
        yield _table(f"servers.{toml.key_text(name)}", {**kind, **dict(sorted(server.parameters.items())), **about})


def _weights(standing: Standing) -> Iterator[str]:
    for name, found in sorted(standing.weights.items()):
        weights = found.weights
        place = f"weights.{toml.key_text(name)}"
        yield _table(place, _about(weights.description, weights.labels, retired=weights.retired_at is not None))
        yield from toml.tables(f"{place}.versions", map(_weights_row, found.versions))


def _weights_row(version: WeightsVersion) -> Values:
    return {"number": version.number, "digest": version.digest}


def _models(standing: Standing) -> Iterator[str]:
    names = _weights_names(standing.weights)
    for name, found in sorted(standing.models.items()):
        model = found.model
        place = f"models.{toml.key_text(name)}"
        about = _about(model.description, model.labels, retired=model.retired_at is not None)
        without = True if DEFAULT_ALIAS not in found.aliases else None
        yield _table(place, {**about, "without_default": without})
        rows = (_version_row(version, found, names) for version in found.versions)
        yield from toml.tables(f"{place}.versions", rows)
        yield from toml.tables(f"{place}.placements", _placement_rows(found))


def _version_row(version: Version, found: StandingModel, names: Mapping[Digest, str]) -> Values:
    weights = names.get(version.weights) if version.weights else None
    return {
        "number": version.number,
        **({"digest": version.package} if version.package else _spec(version.spec)),
        "weights": weights,
        "weights_digest": version.weights if weights is None else None,
        "aliases": sorted(alias for alias, number in found.aliases.items() if number == version.number) or None,
        "retired": True if version.number in found.retired else None,
    }


def _spec(spec: VersionSpec) -> Values:
    """Return the keys of a command that the host has: short where its argv is all that is said of it."""
    command = spec.command
    if command and spec == VersionSpec(
        runner=spec.runner, command=Command(argv=command.argv, directory=command.directory)
    ):
        return {"command": command.argv, "directory": command.directory}
    return {"carton": tomllib.loads(carton.generate(spec))}


def _placement_rows(found: StandingModel) -> Iterator[Values]:
    for server, placement in sorted(found.placements.items()):
        yield {
            "server": server,
            "version": placement.version,
            "device": placement.device,
            "path": placement.path,
        }


def _weights_names(weights: Mapping[str, StandingWeights]) -> dict[Digest, str]:
    """Return a reference for each list of tensors: that of the first name and number that has it."""
    names: dict[Digest, str] = {}
    for name, found in sorted(weights.items()):
        for version in found.versions:
            names.setdefault(version.digest, f"{name}:{version.number}")
    return names


def _about(description: str, labels: Mapping[str, str], *, retired: bool) -> Values:
    return {
        "description": description or None,
        "labels": dict(sorted(labels.items())) or None,
        "retired": retired or None,
    }


def _table(name: str, values: Values) -> str:
    """Return a table, also where it is empty: its name says something."""
    return f"[{name}]\n{toml.pairs(values)}"
