"""A VersionSpec as the text of a carton.toml: a fixed order of keys, so that packing twice gives one id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mer.core import toml
from mer.core.carton.document import MOST_FAULTS
from mer.core.carton.rules import ARRAYS, CARTON_TOML, DTYPES, SPEC_VERSION, spec_faults
from mer.core.carton.running import running_tables
from mer.core.errors import PackageInvalid
from mer.core.specs import Command, TensorSpec, Tokens, VersionSpec


def generate(spec: VersionSpec) -> str:
    """Return the carton.toml that reads back as `spec`.

    Raises:
        PackageInvalid: the spec says what no carton.toml may say.
    """
    faults = spec_faults(spec)
    if faults:
        raise PackageInvalid(f"{CARTON_TOML}: {'; '.join(faults[:MOST_FAULTS])}")
    inputs, ours_in = _tensors("input", spec.inputs)
    outputs, ours_out = _tensors("output", spec.outputs)
    blocks = [
        _head(spec),
        *inputs,
        *outputs,
        _runner(spec),
        # sorted: the order in which options were typed makes no other package
        toml.table("runner.opts", dict(sorted(spec.options.items()))),
        toml.table(
            "mer",
            {
                "arrays": spec.arrays if spec.arrays != ARRAYS[0] else None,
                "concurrency": spec.concurrency if spec.concurrency != 1 else None,
            },
        ),
        *(_command(spec.command) if spec.command else ()),
        *running_tables(spec),
        *ours_in,
        *ours_out,
    ]
    return "\n".join(filter(None, blocks))


def _head(spec: VersionSpec) -> str:
    return toml.pairs(
        {
            "spec_version": SPEC_VERSION,
            "short_description": spec.short_description,
            "required_platforms": spec.required_platforms or None,
        }
    )


def _runner(spec: VersionSpec) -> str:
    return toml.table(
        "runner",
        {
            "runner_name": spec.runner,
            "required_framework_version": spec.required_framework_version,
            "runner_compat_version": spec.runner_compat_version,
        },
    )


def _command(command: Command) -> Iterable[str]:
    yield toml.table("mer.command", {"argv": command.argv, "directory": command.directory})
    if command.tokens != Tokens():
        tokens = command.tokens
        words = {"ready": tokens.ready, "start": tokens.start, "stop": tokens.stop, "exit": tokens.exit}
        yield toml.table("mer.command.tokens", words)


def _tensors(key: str, specs: tuple[TensorSpec, ...]) -> tuple[list[str], list[str]]:
    """Return the tables of Carton's list and of ours: one dtype that Carton lacks moves the whole list to ours."""
    rows = list(map(_row, specs))
    if all(spec.dtype in DTYPES for spec in specs):
        return toml.tables(key, rows), []
    return [], toml.tables(f"mer.{key}", rows)


def _row(spec: TensorSpec) -> Mapping[str, toml.Value | None]:
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": spec.shape,
        "description": spec.description,
        "internal_name": spec.internal_name,
    }
