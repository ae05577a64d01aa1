"""How a worker's end is told, and how the driver holds a wall limit behind the worker's back."""

from pathlib import Path

import pytest

from mer.core.errors import DeadlineExceeded, LimitExceeded, RunTooLong, WorkerLost
from mer.core.specs import Limits, VersionSpec
from mer.execution.walls import BACKSTOP, within
from mer.meal.ends import FOR_MEMORY, loss, memory_kills


def limited(wall: float | None) -> VersionSpec:
    return VersionSpec(runner="python", limits=Limits(wall_seconds=wall))


def test_a_worker_that_the_kernel_ended_for_its_cpu_time_was_over_its_limit() -> None:
    error = loss("was killed by SIGXCPU", "")
    assert isinstance(error, LimitExceeded)
    assert error.code == "limit:cpu"


def test_one_that_it_ended_for_want_of_memory_says_so_with_a_way_out() -> None:
    error = loss(f"was killed by SIGKILL, as the kernel did {FOR_MEMORY}", "; its log ends:\nx")
    assert isinstance(error, WorkerLost)
    assert "want of memory" in error.message
    assert error.hint


def test_any_other_end_is_told_with_the_end_of_its_log() -> None:
    assert (
        loss("ended with status 3", "; its log ends:\nno").message
        == "the worker ended with status 3; its log ends:\nno"
    )


@pytest.mark.parametrize(
    ("text", "count"), [("nr_free 3\noom_kill 12\n", 12), ("nr_free 3\n", 0), ("oom_kill x\n", 0), (None, 0)]
)
def test_what_the_kernel_has_ended_for_memory_is_counted(tmp_path: Path, text: str | None, count: int) -> None:
    if text is not None:
        (tmp_path / "vmstat").write_text(text)
    assert memory_kills(tmp_path / "vmstat") == count


@pytest.mark.parametrize(
    ("wall", "deadline", "due"),
    [
        (None, None, None),
        (None, 5.0, 5.0),
        (10.0, None, 100 + 10 + BACKSTOP),
        (10.0, 105.0, 105.0),
        (1.0, 1000.0, 101 + BACKSTOP),
    ],
)
def test_the_first_of_deadline_and_limit_counts(wall: float | None, deadline: float | None, due: float | None) -> None:
    with within(limited(wall), deadline, now=100.0) as given:
        assert given == due


def test_only_a_deadline_that_the_limit_set_is_told_as_the_limit() -> None:
    with pytest.raises(RunTooLong, match="10 s"), within(limited(10.0), None, now=0.0):
        raise DeadlineExceeded("late")
    with pytest.raises(DeadlineExceeded, match="late") as caught, within(limited(10.0), 5.0, now=0.0):
        raise DeadlineExceeded("late")
    assert not isinstance(caught.value, RunTooLong)
