"""How a version is run, in carton.toml: read, written, and every fault told."""

import pytest

from mer.core.carton import generate, read
from mer.core.errors import PackageInvalid
from mer.core.specs import Batch, Command, Limits, VersionSpec, Workers

SMALLEST = (
    'spec_version = 1\n[runner]\nrunner_name = "python"\nrequired_framework_version = "*"\nrunner_compat_version = 1\n'
)

ALL = Limits(
    wall_seconds=30,
    load_seconds=60,
    memory_bytes=1 << 30,
    cpu_seconds=2.5,
    open_files=64,
    processes=0,
    log_bytes=0,
    calls=10_000,
)


@pytest.mark.parametrize(
    "spec",
    [
        VersionSpec(runner="python", limits=ALL),
        VersionSpec(runner="python", limits=Limits(processes=4), concurrency=8),
        VersionSpec(runner="python", batch=Batch()),
        VersionSpec(runner="python", batch=Batch(max_size=32, max_delay_ms=0.5)),
        VersionSpec(runner="python", workers=Workers(min=1, max=4)),
        VersionSpec(runner="command", command=Command(argv=("a",)), limits=ALL),
    ],
)
def test_what_is_written_reads_back(spec: VersionSpec):
    assert read(generate(spec)) == spec


def test_the_tables_stand_in_a_fixed_order():
    spec = VersionSpec(runner="python", limits=ALL, concurrency=4, workers=Workers(max=2))
    assert generate(spec).endswith(
        """\
[mer]
concurrency = 4

[mer.limits]
wall_seconds = 30.0
load_seconds = 60.0
memory_bytes = 1073741824
cpu_seconds = 2.5
open_files = 64
processes = 0
log_bytes = 0
calls = 10000

[mer.workers]
min = 0
max = 2
"""
    )


def test_what_is_as_usual_is_not_written():
    assert "mer" not in generate(VersionSpec(runner="python", concurrency=1, workers=Workers()))


def test_a_table_says_as_little_as_it_likes():
    spec = read(SMALLEST + "[mer.batch]\n[mer.workers]\nmin = 3\n")
    assert (spec.batch, spec.workers) == (Batch(), Workers(min=3, max=3))


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ("[mer]\nconcurrency = 0\n", "mer.concurrency is 0"),
        ("[mer]\nconcurrency = 1025\n", "mer.concurrency is 1025"),
        ("[mer]\nconcurrency = true\n", "mer.concurrency is no integer"),
        ("[mer]\nconcurrency = 2\n[mer.batch]\n", "one at a time"),
        ("[mer.batch]\nmax_size = 0\n", "mer.batch.max_size is 0"),
        ("[mer.batch]\nmax_size = 513\n", "mer.batch.max_size is 513"),
        ("[mer.batch]\nmax_delay_ms = -1\n", "mer.batch.max_delay_ms is -1"),
        ("[mer.batch]\nmax_delay_ms = nan\n", "mer.batch.max_delay_ms is nan"),
        ("[mer.batch]\nsize = 1\n", "mer.batch.size is not known"),
        ("[mer.workers]\nmax = 0\n", "mer.workers.max is 0"),
        ("[mer.workers]\nmin = 2\nmax = 1\n", "mer.workers.min is 2"),
        ("[mer.limits]\nmemory_bytes = 33554431\n", "mer.limits.memory_bytes is 33554431: an integer from 33554432"),
        ("[mer.limits]\nopen_files = 15\n", "mer.limits.open_files is 15: an integer from 16"),
        ("[mer.limits]\nmemory_bytes = 1.5\n", "mer.limits.memory_bytes is no integer"),
        ("[mer.limits]\nopen_files = 9007199254740993\n", "mer.limits.open_files is 9007199254740993"),
        ("[mer.limits]\nprocesses = -1\n", "mer.limits.processes is -1"),
        ("[mer.limits]\ncpu_seconds = 0\n", "mer.limits.cpu_seconds is 0"),
        ("[mer.limits]\ncalls = 0\n", "mer.limits.calls is 0"),
    ],
)
def test_a_fault_is_told_with_its_key(tables: str, why: str):
    with pytest.raises(PackageInvalid, match=why):
        read(SMALLEST + tables)


@pytest.mark.parametrize("given", [{"concurrency": 2}, {"batch": Batch()}, {"workers": Workers(max=2)}])
def test_a_command_takes_one_request_at_a_time(given: dict):
    with pytest.raises(PackageInvalid, match="has a state"):
        generate(VersionSpec(runner="command", command=Command(argv=("a",)), **given))
