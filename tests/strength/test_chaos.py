"""A minute of chaos: see chaos.py, which a person runs for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.strength.chaos import chaos


@pytest.mark.slow
async def test_whatever_happens_every_call_ends_and_is_on_record_and_nothing_is_left(tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    tally = await chaos(tmp_path, seconds=60, seed=seed)
    assert not tally.wrong, f"{tally.wrong} (python tests/strength/chaos.py --seed {seed})"
    assert tally.outcomes["succeeded"] > 20
    assert len(tally.outcomes) >= 4, tally.outcomes
