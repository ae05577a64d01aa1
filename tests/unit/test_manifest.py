"""MANIFEST's text: what may stand in it, and the id that it gives."""

import hashlib

import pytest

from mer.core.errors import PackageInvalid
from mer.core.manifest import (
    MAX_FILES,
    MAX_PART,
    MAX_PATH,
    format_manifest,
    package_id,
    parse_manifest,
    path_fault,
)
from mer.core.records import Digest

A = Digest("a" * 64)
B = Digest("b" * 64)


def test_files_are_listed_bytewise_so_that_10_comes_before_2():
    text = format_manifest({"tensor_2": A, "tensor_10": B, "é": A, "Z": B})
    assert text == f"Z={B}\ntensor_10={B}\ntensor_2={A}\né={A}\n"


def test_the_id_is_the_sha256_of_the_text():
    text = format_manifest({"carton.toml": A})
    assert package_id(text) == hashlib.sha256(f"carton.toml={A}\n".encode()).hexdigest()


def test_a_line_splits_at_its_last_equals_sign():
    assert parse_manifest(f"model/a=b={A}\n") == {"model/a=b": A}


def test_no_file_at_all_is_an_empty_text():
    assert format_manifest({}) == ""
    assert parse_manifest("") == {}


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "a//b",
        "a/",
        "../a",
        "a/../b",
        "a/./b",
        "a\\b",
        "a\nb",
        "a\x1b[2J",
        "a\x7f",
        "a\x85",
        "a\udc80",
    ],
)
def test_a_path_that_could_leave_the_package_or_confuse_a_terminal_is_refused(path: str):
    assert path_fault(path)
    with pytest.raises(PackageInvalid):
        format_manifest({path: A})


@pytest.mark.parametrize("path", ["a", "model/.carton/carton.lock", "…/..a", "a b", "a=b", "x" * MAX_PART])
def test_an_ordinary_path_may_stand(path: str):
    assert path_fault(path) is None


def test_a_part_may_be_as_long_as_a_file_system_takes_and_no_longer():
    assert path_fault("é" * (MAX_PART // 2)) is None
    assert path_fault("x" * (MAX_PART + 1))


def test_a_path_has_a_longest_length():
    longest = "/".join(["x" * 127] * 8)
    assert len(longest) == MAX_PATH - 1
    assert path_fault("x" + longest) is None
    assert path_fault("xx" + longest)


def test_the_number_of_files_is_bounded():
    most = {f"f{number}": A for number in range(MAX_FILES)}
    assert len(parse_manifest(format_manifest(most))) == MAX_FILES
    with pytest.raises(PackageInvalid, match="20000"):
        format_manifest({**most, "one more": A})
    with pytest.raises(PackageInvalid, match="20000"):
        parse_manifest(format_manifest(most) + f"g={A}\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"a={A}", "does not end"),
        (f"a={A}\n\n", "line 2"),
        ("a\n", "line 1"),
        ("a=abc\n", "line 1"),
        (f"a={A.upper()}\n", "lower-case"),
        (f"a={A}\r\n", "line 1"),
        (f"b={A}\na={A}\n", "out of order"),
        (f"a={A}\na={A}\n", "twice"),
        (f"={A}\n", "empty"),
        (f"a={A}\na/b={B}\n", "as a file and as a folder"),
        (f"../a={A}\n", "part"),
    ],
)
def test_a_text_that_is_no_manifest_is_refused(text: str, why: str):
    with pytest.raises(PackageInvalid, match=why):
        parse_manifest(text)


def test_every_fault_is_told_at_once():
    with pytest.raises(PackageInvalid) as caught:
        parse_manifest("a\nb\n")
    assert "line 1" in caught.value.message
    assert "line 2" in caught.value.message
