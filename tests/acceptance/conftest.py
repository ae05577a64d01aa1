"""One installation for all acceptance tests of a process; each test uses names of its own."""

from collections.abc import Iterator

import pytest

from tests.support.installation import Installation, installation


@pytest.fixture(scope="session")
def installed() -> Iterator[Installation]:
    with installation() as made:
        yield made
