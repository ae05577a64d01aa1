"""`load_unpacked`: a handler in a folder, loaded and called, with no database and no record.

For tests, notebooks and people who try a handler. Errors arrive whole, with the handler's own traceback.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import platformdirs

from mer.core.carton.reading import read
from mer.core.errors import UsageError
from mer.core.running import running_faults
from mer.core.specs import Batch, Command, Limits, Option, VersionSpec
from mer.meal.calls import LogCallback
from mer.meal.host import Host
from mer.meal.inprocess import InProcess
from mer.meal.loaded import LoadedModel, WorkerModel
from mer.meal.local import LocalHost
from mer.meal.model_logger import ModelLogger
from mer.meal.plan import WeightFile, WorkerPlan
from mer.meal.starting import start

CARTON = "carton.toml"
RUNNERS = ("python", "command")
ARRAYS = ("numpy", "buffer", "torch")


async def load_unpacked(
    folder: str | Path,
    runner: str = "python",
    entry: str | None = None,
    options: Mapping[str, Option] | None = None,
    arrays: str | None = None,
    in_process: bool = False,
    *,
    command: Command | None = None,
    weights: tuple[WeightFile, ...] | None = None,
    on_log: LogCallback | None = None,
    load_seconds: float = 60.0,
    host: Host | None = None,
    worker: Sequence[str] | None = None,
    concurrency: int | None = None,
    batch: Batch | None = None,
    limits: Limits | None = None,
) -> LoadedModel:
    """Load a handler from a folder of the author's files, or from an unpacked carton, whose carton.toml is then obeyed.

    `entry` is `module:callable`; `arrays` is what handler and caller get, `numpy` (the default), `buffer` or
    `torch`. With `in_process` the handler runs in this very thread, so that `breakpoint()` works in it; a crash of it is
    then this process's. `on_log` takes what is printed where a call has no `on_log` of its own; without either the logger
    `mer.model` gets it, line by line: prints at INFO, what the model logs at its own level. `worker` is the argv of another
    worker, in any language, which then says which runners it has (docs/other-languages.md). `concurrency`, `batch` and
    `limits` are those of a version (docs/models.md). Times are seconds.

    Raises:
        UsageError: there is no such folder, runner or entry.
        PackageInvalid, ModelFailed, DeadlineExceeded, WorkerLost: it could not be loaded.
    """
    plan = _plan(Path(folder), runner, entry, options or {}, arrays, command, weights, load_seconds)
    plan = dataclasses.replace(plan, spec=_run_as(plan.spec, concurrency, batch, limits))
    if plan.spec.runner not in RUNNERS and worker is None:
        raise UsageError(f"there is no runner {plan.spec.runner!r}, only {', '.join(RUNNERS)}")
    if in_process:
        if plan.spec.runner != "python":
            raise UsageError(f"only the python runner works in the caller's process, not {plan.spec.runner!r}")
        if plan.spec.batch is not None or plan.spec.concurrency > 1:
            raise UsageError("in the caller's process a handler takes one request at a time")
        return InProcess.load(plan)
    host = host or LocalHost(
        scratch_folder=platformdirs.user_cache_path("mer") / "scratch",
        cache_folder=platformdirs.user_cache_path("mer"),
        worker=worker,
    )
    on_log = on_log or ModelLogger()
    session = await start(host, plan, arrays=plan.spec.arrays, on_log=on_log)
    return WorkerModel(host, plan, session, on_log)


def _run_as(spec: VersionSpec, concurrency: int | None, batch: Batch | None, limits: Limits | None) -> VersionSpec:
    """Return the spec with what was given in place of its own."""
    spec = msgspec.structs.replace(
        spec,
        concurrency=spec.concurrency if concurrency is None else concurrency,
        batch=batch or spec.batch,
        limits=limits or spec.limits,
    )
    faults = list(
        running_faults(limits=spec.limits, concurrency=spec.concurrency, batch=spec.batch, workers=spec.workers)
    )
    if faults:
        raise UsageError("; ".join(faults))
    return spec


def _plan(
    folder: Path,
    runner: str,
    entry: str | None,
    options: Mapping[str, Option],
    arrays: str | None,
    command: Command | None,
    weights: tuple[WeightFile, ...] | None,
    load_seconds: float,
) -> WorkerPlan:
    folder = folder.absolute()  # the worker's own folder is another one
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    carton = folder / CARTON
    if carton.is_file():
        spec = read(carton.read_text(encoding="utf-8"))
        spec = msgspec.structs.replace(
            spec, options=spec.options | dict(options), arrays=arrays or spec.arrays, command=command or spec.command
        )
    else:
        spec = VersionSpec(runner=runner, options=dict(options), arrays=arrays or "numpy", command=command)
    if entry is not None:
        package, _, function = entry.partition(":")
        if not package or not function:
            raise UsageError(f"{entry!r} is no entry point: write MODULE:CALLABLE")
        spec = msgspec.structs.replace(
            spec, options=spec.options | {"entrypoint_package": package, "entrypoint_fn": function}
        )
    if spec.arrays not in ARRAYS:
        raise UsageError(f"arrays are {', '.join(ARRAYS)}, not {spec.arrays!r}")
    if spec.arrays == "torch" and importlib.util.find_spec("torch") is None:
        raise UsageError("arrays of torch need torch here, too", hint="pip install 'mer[torch]'")
    return WorkerPlan(
        key=str(folder),
        spec=spec,
        package=folder if carton.is_file() else None,
        model_folder=None if carton.is_file() else folder,
        weights=weights,
        load_seconds=load_seconds,
    )
