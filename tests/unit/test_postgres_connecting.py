"""How a database is named without its secrets, and in which pauses one that is away is asked again."""

from __future__ import annotations

import itertools

import pytest

from mer.core.errors import ConfigurationError
from mer.dal.postgres.backoff import LONGEST_SECONDS, pauses
from mer.dal.postgres.connection_settings import ConnectionSettings, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:s%40cret@db.example:6543/mer?password=other", "postgresql://db.example:6543/mer"),
        ("postgres://db.example", "postgres://db.example"),
        ("postgresql://a:1,b:2/mer?target_session_attrs=read-write", "postgresql://a:1,b:2/mer"),
        ("postgresql://ada:p#w@[::1]:5432/mer", "postgresql://[::1]:5432/mer"),
        ("postgresql:///mer", "postgresql:///mer"),
        ("postgresql://", "postgresql://"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    login = ConnectionSettings.from_url(url, password="third")
    assert login.shown == shown
    assert not [secret for secret in ("cret", "other", "third", "ada", "p#w") if secret in repr(login)]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:secr@et@db.example/mer",
        "postgresql://ada:secr/et@db.example/mer",
        "postgresql://ada:secr?et@db.example/mer",
        "postgresql://db.example/mer?password=secr@et",
        "postgresql://ada:secr et@db.example/mer",
    ],
)
def test_a_url_of_which_nobody_can_tell_where_its_password_ends_is_refused_unshown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        ConnectionSettings.from_url(url)
    assert "%40" in (refused.value.hint or "")
    assert "secr" not in f"{refused.value.message} {refused.value.hint}"
    assert "secr" not in without_secrets(url)


def test_pauses_double_up_to_a_bound() -> None:
    assert list(itertools.islice(pauses(lambda: 1.0), 7)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, LONGEST_SECONDS]


def test_half_of_a_pause_is_chance() -> None:
    assert list(itertools.islice(pauses(lambda: 0.0), 3)) == [0.025, 0.05, 0.1]
