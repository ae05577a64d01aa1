"""What a model printed: passed on whole, and its end, from the beginning of a line, kept for the record."""

from __future__ import annotations

from mer.audit.bodies import MAX_MODEL_LOG, ModelLog
from mer.execution.printed import Printed


def test_what_is_printed_is_passed_on_and_kept() -> None:
    heard: list[tuple[str, str, bytes]] = []
    printed = Printed(lambda *given: heard.append(given), kept=True)
    printed("stdout", "", "ö\n".encode()[:1])
    printed("log", "warning", "ö\n".encode()[1:])
    assert heard == [("stdout", "", b"\xc3"), ("log", "warning", b"\xb6\n")]
    assert printed.end() == ModelLog(bytes=3, text="ö\n")


def test_nothing_printed_is_nothing_said() -> None:
    assert Printed(None, kept=True).end() is None


def test_what_is_not_to_be_kept_is_not() -> None:
    printed = Printed(None, kept=False)
    printed("stdout", "", b"secret")
    assert printed.end() is None


def test_the_bound_is_kept_whole_and_one_past_it_begins_with_a_line() -> None:
    printed = Printed(None, kept=True)
    printed("stdout", "", b"a" * 9 + b"\n" + b"b" * (MAX_MODEL_LOG - 11) + b"\n")
    assert printed.end() == ModelLog(bytes=MAX_MODEL_LOG, text="a" * 9 + "\n" + "b" * (MAX_MODEL_LOG - 11) + "\n")
    printed("stdout", "", b"c")
    assert printed.end() == ModelLog(bytes=MAX_MODEL_LOG + 1, text="b" * (MAX_MODEL_LOG - 11) + "\nc")


def test_a_flood_of_one_line_is_bounded() -> None:
    printed = Printed(None, kept=True)
    for _ in range(100):
        printed("stdout", "", "☃".encode() * 10_000)
    end = printed.end()
    assert end is not None
    assert (end.bytes, end.text) == (3_000_000, "☃" * MAX_MODEL_LOG)
