"""Cancels that come before their request: remembered as long as it may still come, and no longer."""

from __future__ import annotations

import signal

import pytest

from mer_worker.interrupts import Cancelled, Interrupts


def test_a_request_that_was_cancelled_before_it_came_does_not_begin():
    interrupts = Interrupts()
    interrupts.cancel(2)
    interrupts.begin(1)
    interrupts.end()
    with pytest.raises(Cancelled):
        interrupts.begin(2)


def test_cancels_of_requests_that_never_come_do_not_crowd_out_later_ones():
    interrupts = Interrupts()
    for request in range(1, 5000):
        interrupts.cancel(request)
    interrupts.begin(5000)
    interrupts.end()
    interrupts.cancel(5001)
    with pytest.raises(Cancelled):
        interrupts.begin(5001)


def test_a_cancel_of_a_request_that_is_over_is_forgotten():
    interrupts = Interrupts()
    interrupts.begin(7)
    interrupts.end()
    interrupts.cancel(7)
    interrupts.begin(8)
    interrupts.end()


def cancel_here(interrupts: Interrupts, request: int) -> None:
    """Cancel as another thread does, and give the signal the time to arrive."""
    interrupts.cancel(request)
    for _ in range(1000):
        pass


def test_a_handler_that_caught_a_cancel_is_interrupted_by_the_next_one():
    interrupts = Interrupts()
    before = signal.getsignal(signal.SIGINT)
    interrupts.install()
    try:
        interrupts.begin(1)
        for _ in range(2):
            with pytest.raises(Cancelled):
                cancel_here(interrupts, 1)
        interrupts.end()
        cancel_here(interrupts, 1)  # too late: nothing is raised
        interrupts.begin(2)
        interrupts.end()
    finally:
        signal.signal(signal.SIGINT, before)
