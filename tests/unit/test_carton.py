"""carton.toml: every key, every fault, and one text for one spec."""

import pytest

from mer.core.carton import generate, read
from mer.core.errors import PackageInvalid
from mer.core.specs import Command, Limits, TensorSpec, Tokens, VersionSpec

RUNNER = '[runner]\nrunner_name = "python"\nrequired_framework_version = "*"\nrunner_compat_version = 1\n'
SMALLEST = f"spec_version = 1\n{RUNNER}"

PYTHON = VersionSpec(runner="python", options={"entrypoint_package": "digits", "entrypoint_fn": "load"})


def with_head(line: str) -> str:
    return f"spec_version = 1\n{line}\n{RUNNER}"


def test_the_text_has_a_fixed_order_of_keys():
    spec = VersionSpec(
        runner="python",
        required_framework_version="=3.11",
        options={"b": 1, "a.b": True, "c": 0.5, "entrypoint_fn": "load"},
        inputs=(TensorSpec(name="image", dtype="float32", shape=(8, "N", "*"), description='a "picture"'),),
        outputs=(TensorSpec(name="raw", dtype="bytes", shape=()),),
        arrays="buffer",
        limits=Limits(wall_seconds=3),
        short_description="Reads digits.",
        required_platforms=("x86_64-unknown-linux-gnu",),
    )
    assert (
        generate(spec)
        == """\
spec_version = 1
short_description = "Reads digits."
required_platforms = ["x86_64-unknown-linux-gnu"]

[[input]]
name = "image"
dtype = "float32"
shape = [8, "N", "*"]
description = "a \\"picture\\""

[runner]
runner_name = "python"
required_framework_version = "=3.11"
runner_compat_version = 1

[runner.opts]
"a.b" = true
b = 1
c = 0.5
entrypoint_fn = "load"

[mer]
arrays = "buffer"

[mer.limits]
wall_seconds = 3.0

[[mer.output]]
name = "raw"
dtype = "bytes"
shape = []
"""
    )


def test_the_order_in_which_options_were_typed_changes_nothing():
    turned = VersionSpec(runner="python", options=dict(reversed(PYTHON.options.items())))
    assert generate(turned) == generate(PYTHON)


def test_one_dtype_that_carton_lacks_moves_the_whole_list_under_mer():
    specs = (TensorSpec(name="a", dtype="float32"), TensorSpec(name="b", dtype="bfloat16"))
    text = generate(VersionSpec(runner="python", inputs=specs))
    assert "[[input]]" not in text
    assert text.count("[[mer.input]]") == 2
    assert read(text).inputs == specs


def test_a_command_stands_under_mer_with_its_tokens():
    spec = VersionSpec(
        runner="command",
        command=Command(argv=("./chat", "--model", "a b"), directory="bin", tokens=Tokens(ready="R", exit="\tquit")),
    )
    assert read(generate(spec)) == spec


def test_a_command_with_the_usual_tokens_does_not_repeat_them():
    spec = VersionSpec(runner="command", command=Command(argv=("chat",)))
    assert "tokens" not in generate(spec)
    assert read(generate(spec)) == spec


def test_keys_that_carton_does_not_know_are_ignored():
    text = f'spec_version = 1\nlicence = "?"\n{RUNNER}colour = 1\n[runner.opts]\n[other]\nx = 1\n'
    assert read(text) == VersionSpec(runner="python")


def test_the_keys_of_a_carton_file_are_read():
    text = f"""\
spec_version = 1
model_name = "digits"
short_description = "Reads."
required_platforms = ["aarch64-apple-darwin"]
{RUNNER}
[runner.opts]
entrypoint_package = "digits"
threads = 2
[[input]]
name = "image"
dtype = "uint8"
shape = "*"
internal_name = "x"
[[output]]
name = "digit"
dtype = "int64"
shape = "whole"
[[self_test]]
inputs = {{ image = "@tensor_data/three" }}
[[example]]
inputs = {{ image = "@misc/three.png" }}
sample_out = {{ digit = "@tensor_data/three_out" }}
"""
    assert read(text) == VersionSpec(
        runner="python",
        options={"entrypoint_package": "digits", "threads": 2},
        inputs=(TensorSpec(name="image", dtype="uint8", shape="*", internal_name="x"),),
        outputs=(TensorSpec(name="digit", dtype="int64", shape="whole"),),
        short_description="Reads.",
        required_platforms=("aarch64-apple-darwin",),
    )


@pytest.mark.parametrize("version", ["*", "=1.2.3", "=3.11", ">=1.0, <2", "^1", "~1.2.0", "1.*", "> 1.2.3-rc.1+b5"])
def test_a_requirement_of_crate_grammar_is_taken(version: str):
    assert read(SMALLEST.replace('"*"', f'"{version}"')).required_framework_version == version


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "spec_version is missing"),
        ("spec_version = 1 1", "line 1"),
        ("a = " + "[" * 5000, "carton.toml"),
        ("a = " + "9" * 5000, "carton.toml"),
        (SMALLEST.replace("spec_version = 1", "spec_version = 2"), "version 2"),
        (SMALLEST.replace("spec_version = 1", "spec_version = true"), "spec_version is no integer"),
        ("spec_version = 1", "runner.runner_name is missing"),
        ("spec_version = 1\nrunner = 3", "runner is no table"),
        (SMALLEST.replace('"python"', '""'), "runner.runner_name is empty"),
        (SMALLEST.replace('"python"', "7"), "runner.runner_name is no string"),
        (SMALLEST.replace('"*"', '"newest"'), "required_framework_version is 'newest'"),
        (SMALLEST.replace("runner_compat_version = 1", ""), "runner_compat_version is missing"),
        (SMALLEST.replace("runner_compat_version = 1", "runner_compat_version = -1"), "runner_compat_version is -1"),
        (SMALLEST + "[runner.opts]\nlist = [1]\n", "runner.opts.list is neither"),
        (SMALLEST + "[runner.opts]\nday = 2026-01-01\n", "runner.opts.day is neither"),
        (SMALLEST + "[runner.opts]\nhigh = 9223372036854775808\n", "runner.opts.high cannot stand"),
        (SMALLEST + "[runner.opts]\nhigh = nan\n", "runner.opts.high cannot stand"),
        (with_head(f'short_description = "{"x" * 101}"'), "short_description"),
        (with_head('required_platforms = ["linux"]'), "'linux' is no target triple"),
        (with_head("required_platforms = [1]"), "required_platforms is no array of strings"),
        (with_head("input = 1"), "input is no array of tables"),
        (with_head("input = [1]"), r"input\[0\] is no table"),
        (SMALLEST + '[[input]]\ndtype = "int8"\nshape = []\n', r"input\[0\].name is missing"),
        (SMALLEST + '[[input]]\nname = "a"\nshape = []\n', r"input\[0\].dtype is missing"),
        (SMALLEST + '[[input]]\nname = "a"\ndtype = "int8"\n', r"input\[0\].shape is missing"),
        (SMALLEST + '[[input]]\nname = "a"\ndtype = "bytes"\nshape = []\n', r"\[\[mer.input\]\]"),
        (SMALLEST + '[[mer.input]]\nname = "a"\ndtype = "float8"\nshape = []\n', "unknown dtype 'float8'"),
        (SMALLEST + '[[input]]\nname = "a"\ndtype = "int8"\nshape = [-1]\n', r"shape is \[-1\]"),
        (SMALLEST + '[[input]]\nname = "a"\ndtype = "int8"\nshape = [true]\n', r"shape is \[True\]"),
        (SMALLEST + '[[input]]\nname = "a"\ndtype = "int8"\nshape = ""\n', "shape is ''"),
        (SMALLEST + f'[[input]]\nname = "a"\ndtype = "int8"\nshape = {[1] * 65}\n', "at most 64"),
        (SMALLEST + 2 * '[[input]]\nname = "a"\ndtype = "int8"\nshape = []\n', "'a' stands twice"),
        (
            SMALLEST + '[[input]]\nname = "a"\ndtype = "int8"\nshape = []\n'
            '[[mer.input]]\nname = "b"\ndtype = "int8"\nshape = []\n',
            "mer.input is there and input too",
        ),
        (SMALLEST + '[mer]\narrays = "jax"\n', "mer.arrays is 'jax'"),
        (SMALLEST + '[mer]\narray = "buffer"\n', "mer.array is not known"),
        (SMALLEST + "[mer.limits]\nwall_seconds = 0\n", "mer.limits.wall_seconds is 0"),
        (SMALLEST + "[mer.limits]\nwall_seconds = inf\n", "mer.limits.wall_seconds is inf"),
        (SMALLEST + "[mer.limits]\ncpu_seconds = 1000000001\n", "mer.limits.cpu_seconds is 1000000001"),
        (SMALLEST + f"[mer.limits]\nload_seconds = 1{'0' * 400}\n", "mer.limits.load_seconds is no number"),
        (SMALLEST + '[mer.limits]\nload_seconds = "1"\n', "mer.limits.load_seconds is no number"),
        (SMALLEST + '[mer.command]\nargv = ["a"]\n', "the runner is 'python'"),
        (SMALLEST.replace("python", "command"), "mer.command.argv is missing"),
        (SMALLEST.replace("python", "command") + '[mer.command]\nargv = "a b"\n', "mer.command.argv is no array"),
        (SMALLEST.replace("python", "command") + '[mer.command]\nargv = ["a\\u0000"]\n', "NUL"),
        (
            SMALLEST.replace("python", "command")
            + '[mer.command]\nargv = ["a"]\ntokens = { start = "S", stop = "S" }\n',
            "two of them are the same",
        ),
        (
            SMALLEST.replace("python", "command") + '[mer.command]\nargv = ["a"]\ntokens = { start = "S\\n" }\n',
            "a line of its own",
        ),
        (
            SMALLEST.replace("python", "command") + '[mer.command]\nargv = ["a"]\ntokens = { begin = "S" }\n',
            "tokens.begin is not known",
        ),
        (SMALLEST + "[[self_test]]\n", r"self_test\[0\].inputs is missing"),
        (SMALLEST + '[[self_test]]\ninputs = { a = "three" }\n', r"self_test\[0\].inputs.a does not begin with"),
        (SMALLEST + '[[example]]\ninputs = { a = "@misc/a" }\n', r"example\[0\].sample_out is missing"),
    ],
)
def test_a_fault_is_told_with_its_key(text: str, why: str):
    with pytest.raises(PackageInvalid, match=why) as caught:
        read(text)
    assert caught.value.message.startswith("carton.toml: ")


def test_every_fault_is_told_at_once():
    with pytest.raises(PackageInvalid) as caught:
        read('spec_version = "1"\n[runner]\nrunner_name = 7\n[mer]\nx = 1\n')
    for key in ("spec_version", "runner.runner_name", "runner.runner_compat_version", "mer.x"):
        assert key in caught.value.message


@pytest.mark.parametrize(
    "spec",
    [
        VersionSpec(runner=""),
        VersionSpec(runner="command"),
        VersionSpec(runner="python", options={"x": float("nan")}),
        VersionSpec(runner="python", options={"x": 2**63}),
        VersionSpec(runner="python", options={"x": "\ud800"}),
        VersionSpec(runner="python", runner_compat_version=-1),
        VersionSpec(runner="python", inputs=(TensorSpec(name="a", dtype="float8"),)),
        VersionSpec(runner="python", inputs=(TensorSpec(name="a", dtype="int8", shape=("",)),)),
        VersionSpec(runner="python", limits=Limits(wall_seconds=-1)),
    ],
)
def test_a_spec_that_would_not_read_back_is_not_written(spec: VersionSpec):
    with pytest.raises(PackageInvalid):
        generate(spec)
