"""What varies by kind is kept exactly: every JSON value that fits 64 bits comes back as it went."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mer.dal.surreal import SurrealStore
from tests.support import records

text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types: 1 is not 1.0 and not True, 0.0 is not -0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(text, values, max_size=4), min_size=8, max_size=8))
def test_parameters_come_back_as_they_went(given: list[dict[str, Any]]) -> None:
    async def there_and_back() -> list[dict[str, Any]]:
        store = SurrealStore("mem://")
        await store.open()
        try:
            async with store.transaction() as inside:
                for number, parameters in enumerate(given):
                    await inside.servers.add(records.server(f"s{number}", parameters=parameters))
                within = [server.parameters for server in (await inside.servers.page()).items]
            found = [server.parameters for server in (await store.servers.page()).items]
            assert same(within, found)
            return found
        finally:
            await store.close()

    assert same(asyncio.run(there_and_back()), given)
