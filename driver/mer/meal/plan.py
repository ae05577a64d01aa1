"""What a worker is to load: one version with everything resolved to paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mer.core.specs import VersionSpec
from mer_worker.dtypes import NUMERIC

MODEL_FOLDER = "model"
"""Where in a carton's tree the author's files are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One tensor of a weights version: raw little-endian C-order bytes in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    digest: str | None = None
    """sha256 of the file, for a host that has it by its digest; None: only hosts that read the path can load it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """What a worker is to load. Plans of the same key may share workers."""

    key: str
    spec: VersionSpec
    package: Path | None
    """The folder of the unpacked carton; None for a command that the host already has."""
    package_id: str | None = None
    """The sha256 of the package's MANIFEST; None where it is a plain folder of the author's."""
    weights_id: str | None = None
    """The sha256 of the weights' list of tensors; None without registered weights."""
    manifest: Path | None = None
    """The file of that MANIFEST: a line `path=sha256` for each file of the package."""
    model_folder: Path | None = None
    """Where the author's files are, if not in the package's `model`."""
    weights: tuple[WeightFile, ...] | None = None
    device: str | None = None
    """The placement's: the handler is told of it, and on a far host drivers take turns at it."""
    holder: Mapping[str, Any] = field(default_factory=dict)
    """Who is named to those who wait for the device: `driver` (a text that no other driver has), `actor`, `host`, `pid`."""
    load_seconds: float = 60.0

    @property
    def answers(self) -> str:
        """What replies hold here: what the handler gets, but nobody imports torch for it."""
        return "numpy" if self.spec.arrays == "torch" else self.spec.arrays

    def fields(self) -> dict[str, Any]:
        """Return the head of the load frame (docs/wire.md, "load")."""
        spec, folder = self.spec, self.model_folder
        if folder is None and self.package is not None:
            folder = self.package / MODEL_FOLDER
        fields: dict[str, Any] = {
            "runner": spec.runner,
            "folder": None if folder is None else str(folder),
            "options": dict(spec.options),
            "arrays": spec.arrays,
            **_running(spec),
        }
        if spec.runner == "python" and spec.arrays == "numpy" and _takes_numbers(spec):
            fields["numbers"] = True
        if self.device is not None:
            fields["device"] = self.device
        if self.weights is not None:
            fields["weights"] = [
                [weight.name, weight.dtype, list(weight.shape), str(weight.path)] for weight in self.weights
            ]
        if spec.command is not None:
            tokens = spec.command.tokens
            fields["command"] = {
                "argv": list(spec.command.argv),
                "directory": spec.command.directory,
                "tokens": {"ready": tokens.ready, "start": tokens.start, "stop": tokens.stop, "exit": tokens.exit},
            }
            if len(spec.outputs) == 1:
                fields["output"] = spec.outputs[0].name
        return fields


def _takes_numbers(spec: VersionSpec) -> bool:
    """Whether arrays may be among the inputs: without specs anything may."""
    return not spec.inputs or any(tensor.dtype in NUMERIC for tensor in spec.inputs)


def _running(spec: VersionSpec) -> dict[str, Any]:
    """Return what the worker is to know of how it is run; numbers in heads are integers."""
    limits = spec.limits
    told = {
        "wall_ms": _milliseconds(limits.wall_seconds),
        "memory_bytes": limits.memory_bytes,
        "cpu_ms": _milliseconds(limits.cpu_seconds),
        "open_files": limits.open_files,
        "processes": limits.processes,
        "log_bytes": limits.log_bytes,
    }
    fields: dict[str, Any] = {}
    if given := {name: value for name, value in told.items() if value is not None}:
        fields["limits"] = given
    if spec.concurrency > 1:
        fields["concurrency"] = spec.concurrency
    if spec.batch is not None:
        fields["batch"] = spec.batch.max_size
    return fields


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else max(1, round(1e3 * seconds))
