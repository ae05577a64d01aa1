"""What must hold for every MANIFEST, every spec and every list of tensors, not only for those that somebody thought of."""

import math

from hypothesis import given
from hypothesis import strategies as st

from mer.core.canonical import canonical
from mer.core.carton import generate, read
from mer.core.errors import PackageInvalid, WeightsInvalid
from mer.core.manifest import format_manifest, parse_manifest, path_fault
from mer.core.specs import Command, Limits, TensorSpec, Tokens, VersionSpec
from mer.core.weights import TensorEntry, format_weights, parse_weights, tensor_fault
from mer_worker.dtypes import DTYPES, NUMERIC

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = texts.filter(bool)
lines = words.filter(lambda text: not set(text) & set("\r\n"))
lengths = st.integers(0, 2**63 - 1)
seconds = st.none() | st.floats(0, 1e9, exclude_min=True)
shapes = words | st.lists(lengths | words, max_size=5).map(tuple)
tensors = st.lists(
    st.builds(
        TensorSpec,
        name=words,
        dtype=st.sampled_from(sorted(DTYPES)),
        shape=shapes,
        description=st.none() | texts,
        internal_name=st.none() | texts,
    ),
    max_size=4,
    unique_by=lambda spec: spec.name,
).map(tuple)
options = st.dictionaries(
    texts,
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    max_size=5,
)
tokens = st.lists(lines, min_size=4, max_size=4, unique=True).map(
    lambda four: Tokens(ready=four[0], start=four[1], stop=four[2], exit=four[3])
)
arguments = texts.filter(lambda text: "\0" not in text)
commands = st.builds(
    Command,
    argv=st.lists(arguments.filter(bool), min_size=1, max_size=3).map(tuple),
    directory=st.none() | arguments,
    tokens=tokens | st.just(Tokens()),
)
common = {
    "required_framework_version": st.sampled_from(["*", "=1.2.3", ">=1.0, <2"]),
    "runner_compat_version": lengths,
    "options": options,
    "inputs": tensors,
    "outputs": tensors,
    "arrays": st.sampled_from(["numpy", "buffer"]),
    "limits": st.builds(Limits, wall_seconds=seconds, load_seconds=seconds),
    "short_description": st.none() | texts,
    "required_platforms": st.lists(st.sampled_from(["x86_64-unknown-linux-gnu", "aarch64-apple-darwin"])).map(tuple),
}
specs = st.builds(VersionSpec, runner=words.filter(lambda name: name != "command"), **common) | st.builds(
    VersionSpec, runner=st.just("command"), command=commands, **common
)
paths = st.lists(words, min_size=1, max_size=3).map("/".join).filter(lambda path: path_fault(path) is None)


@given(specs)
def test_what_is_generated_reads_back_as_the_same_spec(spec: VersionSpec):
    assert read(generate(spec)) == spec


@given(specs)
def test_what_was_read_back_generates_the_same_text(spec: VersionSpec):
    text = generate(spec)
    assert generate(read(text)) == text


@given(st.text(max_size=300))
def test_any_text_is_read_or_refused_as_a_carton_file(text: str):
    try:
        read(text)
    except PackageInvalid:
        pass


@given(st.dictionaries(paths, digests, max_size=10))
def test_a_manifest_reads_back(files: dict[str, str]):
    try:
        text = format_manifest(files)
    except PackageInvalid:
        return  # a path that is a folder of another
    assert parse_manifest(text) == files
    assert list(parse_manifest(text)) == sorted(files, key=str.encode)


@given(st.text(max_size=200))
def test_a_text_that_is_taken_as_a_manifest_is_the_one_that_would_be_written(text: str):
    try:
        files = parse_manifest(text)
    except PackageInvalid:
        return
    assert format_manifest(files) == text


entries = st.lists(
    st.builds(
        TensorEntry,
        name=words.filter(lambda name: tensor_fault(name, "int8", ()) is None),
        dtype=st.sampled_from(sorted(NUMERIC)),
        shape=st.lists(st.integers(0, 1000), max_size=4).map(tuple),
        digest=digests,
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda entry: entry.name,
)


@given(entries, st.randoms())
def test_a_list_of_tensors_has_one_text_in_whatever_order_they_come(given_entries: list[TensorEntry], random):
    text = format_weights(given_entries)
    random.shuffle(given_entries)
    assert format_weights(given_entries) == text
    rows = [{"dtype": e.dtype, "name": e.name, "sha256": e.digest, "shape": e.shape} for e in given_entries]
    assert set(text.split("\n")) == {*map(canonical, rows), ""}
    assert set(parse_weights(text)) == set(given_entries)
    assert all(entry.size == math.prod(entry.shape) * NUMERIC[entry.dtype] for entry in given_entries)


@given(st.text(max_size=200) | st.builds(lambda a, b: a + b + "\n", st.text(max_size=5), st.just('{"dtype":"int8"}')))
def test_any_text_is_read_or_refused_as_a_list_of_tensors(text: str):
    try:
        parse_weights(text)
    except WeightsInvalid:
        pass
