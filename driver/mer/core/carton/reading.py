"""The text of a carton.toml as a VersionSpec, or every reason why it is none."""

from __future__ import annotations

import tomllib

from mer.core import toml
from mer.core.carton.document import MOST_FAULTS, Fault, Table
from mer.core.carton.rules import ARRAYS, CARTON_TOML, DTYPES, SHAPE_MEANT, SPEC_VERSION, is_shape, spec_faults
from mer.core.carton.running import KEYS, read_batch, read_limits, read_workers
from mer.core.errors import PackageInvalid
from mer.core.specs import ANY, Command, Option, Shape, TensorSpec, Tokens, VersionSpec


def read(text: str) -> VersionSpec:
    """Return what a carton.toml says. Keys that Carton does not know are ignored; under `[mer]` they are faults.

    Raises:
        PackageInvalid: with every fault (the first 20), each with its key.
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        # ValueError: TOMLDecodeError is one, and so is what int() says of 5000 digits
        raise PackageInvalid(f"{CARTON_TOML}: {error}") from error
    faults: list[Fault] = []
    root = Table(document, faults=faults)
    version = root.needed_integer("spec_version")
    if not faults and version != SPEC_VERSION:
        raise PackageInvalid(f"{CARTON_TOML}: is of Carton's version {version}; this program reads {SPEC_VERSION}")
    spec = read_spec(root)
    _check_references(root)
    # what a fault of reading left empty would only be complained of a second time
    told = list(map(str, faults)) or spec_faults(spec)
    if told:
        raise PackageInvalid(f"{CARTON_TOML}: {'; '.join(told[:MOST_FAULTS])}")
    return spec


def read_spec(root: Table) -> VersionSpec:
    """Return what the keys of a carton.toml say; `rules.spec_faults` tells whether it may be said."""
    runner = root.table("runner")
    ours = root.table("mer")
    ours.only(("arrays", "input", "output", "command", *KEYS))
    return VersionSpec(
        runner=runner.needed_text("runner_name"),
        required_framework_version=runner.needed_text("required_framework_version"),
        runner_compat_version=runner.needed_integer("runner_compat_version"),
        options=_options(runner.table("opts")),
        inputs=_tensors(root, ours, "input"),
        outputs=_tensors(root, ours, "output"),
        arrays=ours.text("arrays") or ARRAYS[0],
        command=_command(ours.table("command")) if "command" in ours.values else None,
        limits=read_limits(ours.table("limits")),
        concurrency=1 if (concurrency := ours.integer("concurrency")) is None else concurrency,
        batch=read_batch(ours.table("batch")) if "batch" in ours.values else None,
        workers=read_workers(ours.table("workers")),
        short_description=root.text("short_description"),
        required_platforms=root.texts("required_platforms"),
    )


def _options(opts: Table) -> dict[str, Option]:
    options: dict[str, Option] = {}
    for key, value in opts.values.items():
        if not isinstance(value, bool | int | float | str):
            opts.fault(key, "is neither an integer, a float, a string nor a boolean")
            continue
        try:
            toml.value_text(value)
        except PackageInvalid as error:
            opts.fault(key, f"cannot stand: {error.message}")
        options[key] = value
    return options


def _tensors(root: Table, ours: Table, key: str) -> tuple[TensorSpec, ...]:
    if key in root.values and key in ours.values:
        ours.fault(key, f"is there and {key} too: say it in one place")
    return (
        *(_tensor(row, key, carton=True) for row in root.tables(key)),
        *(_tensor(row, key, carton=False) for row in ours.tables(key)),
    )


def _tensor(row: Table, key: str, *, carton: bool) -> TensorSpec:
    dtype = row.needed_text("dtype")
    if dtype and carton and dtype not in DTYPES:
        row.fault("dtype", f"is {dtype!r}, which Carton has no word for: write the whole list as [[mer.{key}]]")
    return TensorSpec(
        name=row.needed_text("name"),
        dtype=dtype,
        shape=_shape(row),
        description=row.text("description"),
        internal_name=row.text("internal_name"),
    )


def _shape(row: Table) -> Shape:
    if "shape" not in row.values:
        row.fault("shape", "is missing")
        return ANY
    value = row.values["shape"]
    if not is_shape(value):
        row.fault("shape", f"is {value!r}: {SHAPE_MEANT}")
        return ANY
    return value if isinstance(value, str) else tuple(value)


def _command(table: Table) -> Command:
    table.only(("argv", "directory", "tokens"))
    words = table.table("tokens")
    names = ("ready", "start", "stop", "exit")
    words.only(names)
    given = {name: word for name in names if (word := words.text(name)) is not None}
    return Command(argv=table.texts("argv"), directory=table.text("directory"), tokens=Tokens(**given))


def _check_references(root: Table) -> None:
    """Check what self tests and examples refer to, as Carton does: tensors and files stored in the package."""
    for key, needed, prefixes in (
        ("self_test", {"inputs": True, "expected_out": False}, ("@tensor_data/",)),
        ("example", {"inputs": True, "sample_out": True}, ("@tensor_data/", "@misc/")),
    ):
        for row in root.tables(key):
            for field in needed:
                if needed[field] and field not in row.values:
                    row.fault(field, "is missing")
                stored = row.table(field)
                for name in stored.values:
                    reference = stored.text(name)
                    if reference is not None and not reference.startswith(prefixes):
                        stored.fault(name, f"does not begin with {' or '.join(prefixes)}")
