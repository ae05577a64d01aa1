"""Canonical JSON: the same record gives the same bytes everywhere."""

import pytest

from mer.core.canonical import MAX_SAFE_INTEGER, NotCanonical, canonical, clean_text


def test_keys_are_ordered_by_utf16_code_units() -> None:
    # RFC 8785, section 3.2.3: the emoji's surrogates sort before U+FB33, its code point would not
    keys = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    text = canonical(dict.fromkeys(keys, 0))
    assert list(__import__("json").loads(text)) == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def test_there_is_no_white_space_and_only_what_must_be_is_escaped() -> None:
    assert canonical({"b": [1, None, True], "a": 'é"\\/\b\f\n\r\t\x01\x7f'}) == (
        '{"a":"é\\"\\\\/\\b\\f\\n\\r\\t\\u0001\x7f","b":[1,null,true]}'
    )


@pytest.mark.parametrize(
    "value", [1.5, float("nan"), MAX_SAFE_INTEGER + 1, -MAX_SAFE_INTEGER - 1, b"x", {1: 2}, "\ud800"]
)
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical({"value": value})  # type: ignore[dict-item]


def test_the_largest_safe_integers_are_kept() -> None:
    assert canonical([MAX_SAFE_INTEGER, -MAX_SAFE_INTEGER]) == "[9007199254740991,-9007199254740991]"


def test_text_for_a_record_has_no_nul_and_no_lone_surrogate() -> None:
    assert clean_text("a\x00b\ud800c", limit=10) == "a\ufffdb?c"


@pytest.mark.parametrize(("length", "kept"), [(10, 10), (11, 10)])
def test_text_for_a_record_is_cut_with_a_mark_past_its_limit(length: int, kept: int) -> None:
    text = clean_text("x" * length, limit=10)
    assert len(text) == kept
    assert text.endswith("…") == (length > 10)
