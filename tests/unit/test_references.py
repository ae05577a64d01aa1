"""References, `name[:version|@alias]`."""

import pytest

from mer.core.errors import UsageError
from mer.core.references import MAX_NAME, MAX_VERSION, Reference, check_name, parse_reference


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("digits", Reference(name="digits")),
        ("digits:3", Reference(name="digits", version=3)),
        ("digits@prod", Reference(name="digits", alias="prod")),
        ("Größe-2.1_b", Reference(name="Größe-2.1_b")),
        ("手書き数字:1", Reference(name="手書き数字", version=1)),
        (f"x:{MAX_VERSION}", Reference(name="x", version=MAX_VERSION)),
    ],
)
def test_a_reference_is_read_and_written_alike(text: str, reference: Reference) -> None:
    assert parse_reference(text) == reference
    assert str(reference) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "@prod",
        "a:",
        "a@",
        "a:0",
        "a:-1",
        "a:01",
        "a:1.0",
        "a:x",
        "a:٣",
        "a:1@b",
        "a b",
        "a/b",
        "-a",
        ".a",
        "a\x00",
        "a\nb",
        f"a:{MAX_VERSION + 1}",
        "x" * (MAX_NAME + 1),
        "a;b",
        "$(a)",
        "a'b",
        "a\u202eb",
    ],
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_reference(text)


def test_a_name_of_the_longest_length_is_taken() -> None:
    assert check_name("x" * MAX_NAME) == "x" * MAX_NAME


def test_one_name_written_in_two_ways_is_one_name() -> None:
    assert check_name("e\u0301tude") == check_name("étude")
