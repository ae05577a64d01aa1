"""Descriptions and labels: what people say of a server, a model or weights, and its bounds."""

from __future__ import annotations

from collections.abc import Mapping

from mer.core.errors import UsageError

MAX_DESCRIPTION = 100_000
"""Characters: room for a model card, too little to be used as a store for content."""

MAX_LABELS = 64
MAX_LABEL = 256
"""Characters of a label's key or value: they stand in tables."""


def check_description(text: str) -> str:
    """Return `text` if it may be a description; raise UsageError where it is too long or holds a NUL."""
    if len(text) > MAX_DESCRIPTION:
        raise UsageError(f"the description has {len(text)} characters, at most {MAX_DESCRIPTION} are kept")
    return check_text(text, "the description")


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return `labels` if they may be kept; raise UsageError otherwise."""
    if len(labels) > MAX_LABELS:
        raise UsageError(f"{len(labels)} labels are too many: at most {MAX_LABELS}")
    for key, value in labels.items():
        if not key or len(key) > MAX_LABEL or len(value) > MAX_LABEL:
            raise UsageError(f"the label {key[:40]!r} is empty or longer than {MAX_LABEL} characters")
        check_text(key + value, f"the label {key!r}")
    return dict(labels)


def changed_labels(labels: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return `labels` with the changes: a text sets a label, None takes it away.

    Raises:
        UsageError: one is to be taken away that is not there, or the result may not be kept.
    """
    for key, value in changes.items():
        if value is None and key not in labels:
            raise UsageError(f"there is no label {key[:80]!r} to take away")
    return check_labels({key: value for key, value in {**labels, **changes}.items() if value is not None})


def check_text(text: str, what: str) -> str:
    """Return `text` if every database and every record can hold it; raise UsageError otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid Unicode") from error
    if "\x00" in text:
        raise UsageError(f"{what} holds a NUL character, which no database keeps")
    return text
