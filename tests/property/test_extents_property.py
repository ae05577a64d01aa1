"""Places in a memory against a plain model: whatever is taken and given back, none overlap and nothing is lost."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mer_worker.extents import Extents

GRAIN = 8
FIRST = 16
END = FIRST + 40 * GRAIN

STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 100)), max_size=60)


@given(STEPS)
def test_extents_are_a_bitmap(steps: list[tuple[bool, int]]) -> None:
    extents = Extents(FIRST, END, GRAIN)
    cells: list[int] = [0] * ((END - FIRST) // GRAIN)
    taken: list[int] = []
    for takes, number in steps:
        if takes:
            start = extents.take(number)
            need = -(-number // GRAIN)
            room = next((at for at in range(len(cells) - need + 1) if not any(cells[at : at + need])), None)
            if room is None:
                assert start is None
                continue
            assert start == FIRST + room * GRAIN  # the lowest address that has room
            cells[room : room + need] = [start] * need
            taken.append(start)
        elif taken:
            start = taken.pop(number % len(taken))
            extents.give(start)
            cells = [0 if cell == start else cell for cell in cells]
        assert extents.used == GRAIN * sum(map(bool, cells))
    free = list(extents.free())
    assert all(one[1] < other[0] for one, other in itertools.pairwise(free))  # none touch
    assert sum(end - start for start, end in free) == END - FIRST - extents.used
    for start in taken:
        extents.give(start)
    assert list(extents.free()) == [(FIRST, END)]
