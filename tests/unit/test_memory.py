"""The shared files by themselves: who may use a place when, what a broken peer can do there, and where pages go."""

from __future__ import annotations

import gc
import os
import signal

import numpy
import pytest

from mer_worker.memory import GRAIN, KEPT_BYTES, LEAST_BYTES, OwnFile, TheirFile, data_start
from mer_worker.wire import WireError

SIZE = 4 << 20


def file(size: int = SIZE) -> int:
    descriptor = os.memfd_create("test")
    os.ftruncate(descriptor, size)
    return descriptor


@pytest.fixture
def ends():
    """The writer's end of a file, and the reader's."""
    descriptor = file()
    own, theirs = OwnFile(descriptor, SIZE), TheirFile(descriptor, SIZE)
    yield own, theirs
    theirs.close()
    own.close()


def sent(own: OwnFile, segment: bytes) -> int:
    start = own.put(segment)
    assert start is not None
    own.sent([start])
    return start


def test_what_is_written_is_read(ends):
    own, theirs = ends
    start = sent(own, b"x" * GRAIN)
    assert bytes(theirs.claim(start, GRAIN)) == b"x" * GRAIN


def test_a_segment_is_given_back_when_its_last_view_is_gone(ends):
    own, theirs = ends
    view = theirs.claim(sent(own, bytes(GRAIN)), GRAIN)
    part = view[10:20]
    array = numpy.ndarray((4,), "uint8", part)
    reshaped = array.reshape(2, 2)[1:]
    del view, part, array
    theirs.settle()
    assert own.used == GRAIN
    del reshaped
    theirs.settle()
    assert own.used == 0


def test_a_view_made_by_dlpack_or_memoryview_holds_it_too(ends):
    own, theirs = ends
    array = numpy.ndarray((4,), "uint8", theirs.claim(sent(own, bytes(GRAIN)), GRAIN))
    exported = memoryview(array)
    del array
    theirs.settle()
    assert own.used == GRAIN
    exported.release()
    del exported
    theirs.settle()
    assert own.used == 0


def test_the_place_given_back_last_is_used_next(ends):
    own, theirs = ends
    view = theirs.claim(sent(own, bytes(GRAIN)), GRAIN)
    other = sent(own, bytes(GRAIN))
    start = other - GRAIN
    del view
    theirs.settle()
    assert own.take(GRAIN) == start


def test_nothing_is_reused_before_it_is_given_back(ends):
    own, _ = ends
    starts = [sent(own, bytes(GRAIN)) for _ in range(8)]
    assert len(set(starts)) == 8


def test_a_full_file_has_no_place(ends):
    own, _ = ends
    room = SIZE - data_start(SIZE)
    assert own.put(bytes(room + 1)) is None
    assert own.put(bytes(room)) is not None
    assert own.put(b"x") is None


@pytest.mark.parametrize(
    ("start", "size"),
    [
        (0, 1),
        (GRAIN + 1, 1),
        (GRAIN, 0),
        (GRAIN, SIZE - GRAIN + 1),
        (SIZE, 1),
        (1 << 63, 1),
        (GRAIN, (1 << 64) - 1),
    ],
)
def test_a_segment_that_cannot_lie_there_is_refused(ends, start, size):
    with pytest.raises(WireError):
        ends[1].claim(start, size)


def test_a_segment_that_ends_with_the_file_is_taken(ends):
    assert len(ends[1].claim(GRAIN, SIZE - GRAIN)) == SIZE - GRAIN


def test_a_table_full_of_nonsense_frees_what_was_sent_and_nothing_else():
    descriptor = file()
    other = os.dup(descriptor)
    own = OwnFile(descriptor, SIZE)
    start, kept = sent(own, bytes(GRAIN)), own.take(GRAIN)
    os.pwrite(other, b"\1" * GRAIN, 0)
    assert own.used == GRAIN  # what is being written is not given away
    assert own.take(GRAIN) == start != kept
    os.close(other)
    own.close()


def test_the_same_segment_twice_is_given_back_and_harms_nobody(ends):
    own, theirs = ends
    start = sent(own, bytes(GRAIN))
    one, two = theirs.claim(start, GRAIN), theirs.claim(start, GRAIN)
    del one
    theirs.settle()
    assert theirs.held == 1
    del two
    theirs.settle()
    assert own.used == 0


def test_a_lent_place_is_free_again_when_it_is_let_go(ends):
    own, _ = ends
    view = own.lend(2 * GRAIN)
    assert own.used == 2 * GRAIN
    del view
    assert own.used == 0


def test_the_death_of_a_lent_place_that_is_held_frees_nothing(ends):
    own, _ = ends
    view = own.lend(GRAIN)
    assert view is not None
    start = own.lent_at(view)
    assert start is not None
    watch = own.hold(start)
    assert watch() is not None
    del view
    assert watch() is None
    assert own.used == GRAIN  # its death frees nothing
    own.let(start, watch)
    assert own.used == 0


def test_other_memory_is_not_lent(ends):
    own, _ = ends
    view = own.lend(GRAIN)
    assert own.lent_at(memoryview(bytearray(GRAIN))) is None
    assert own.lent_at(memoryview(bytes(GRAIN))) is None
    assert own.lent_at(b"x") is None
    assert view is not None
    assert own.lent_at(view[64:]) is None


def test_a_fork_that_lets_a_view_go_gives_nothing_back(ends):
    own, theirs = ends
    view = theirs.claim(sent(own, bytes(GRAIN)), GRAIN)
    child = os.fork()
    if not child:
        try:
            del view
            theirs.settle()
            os._exit(0 if own.take(GRAIN) is None else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert own.used == GRAIN
    assert len(view) == GRAIN


def test_views_outlive_the_file_and_its_descriptors_are_gone_with_them():
    before = len(os.listdir("/proc/self/fd"))
    descriptor = file()
    own, theirs = OwnFile(descriptor, SIZE), TheirFile(descriptor, SIZE)
    view = theirs.claim(sent(own, b"y" * GRAIN), GRAIN)
    theirs.close()
    own.close()
    own.close()
    assert bytes(view[:2]) == b"yy"
    assert own.take(GRAIN) is None
    del view, own, theirs
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_pages_beyond_what_is_kept_go_after_a_period_without_use():
    size = KEPT_BYTES + (64 << 20)
    descriptor = file(size)
    own = OwnFile(descriptor, size)
    starts = [own.put(bytes(16 << 20)) for _ in range(11)]
    assert own.filled == 11 << 24
    own.returned.extend(start for start in starts if start is not None)
    own.age()
    assert not own.shrink()  # it was used in this period
    own.age()
    while own.shrink():
        pass
    assert own.filled <= KEPT_BYTES + GRAIN
    assert os.fstat(descriptor).st_blocks * 512 <= KEPT_BYTES + 2 * GRAIN
    assert not own.beyond
    own.close()


def test_pages_that_are_in_use_stay():
    size = KEPT_BYTES + (64 << 20)
    own = OwnFile(file(size), size)
    starts = [own.put(bytes(16 << 20)) for _ in range(11)]
    last = starts.pop()
    assert last is not None
    own.write(last, b"kept")
    own.returned.extend(start for start in starts if start is not None)
    for _ in range(3):
        own.age()
        while own.shrink():
            pass
    assert bytes(own.at(last, 4)) == b"kept"
    own.close()


def test_at_once_a_segment_gets_few_pages_and_waits_for_no_more(ends):
    own, theirs = ends
    small, large = bytes(1 << 20), bytes(2 << 20)
    assert own.put_at_once(large, len(large)) is None
    start = own.put_at_once(small, len(small))
    assert bytes(theirs.claim(start, 4)) == bytes(4)
    with pytest.raises(IndexError):
        own.put_at_once(small, 7 * GRAIN)
    with pytest.raises((ValueError, BufferError, TypeError)):
        own.put_at_once(numpy.zeros((GRAIN, 4), "uint8")[:, 1], GRAIN)
    theirs.settle()
    assert own.used == 0


def test_where_there_is_no_memory_a_segment_has_no_place():
    """A file on a full file system: the kernel refuses the pages before anything is written to them."""
    size = LEAST_BYTES
    descriptor = file(size)
    own = OwnFile(descriptor, size)
    os.dup2(os.open("/dev/null", os.O_RDWR), descriptor)  # takes no fallocate, as a full one does not
    assert own.put(bytes(GRAIN)) is None
    assert own.put_at_once(bytes(GRAIN), GRAIN) is None
    assert own.lend(GRAIN) is None
    assert own.used == 0
    own.close()


def test_a_signal_does_not_fall_into_a_views_death(ends):
    """The callback of a dead view is C: an exception from a signal's handler is raised outside of it, and never lost."""
    own, theirs = ends
    caught = 0

    class Stop(BaseException):
        pass

    def stop(*_: object) -> None:
        raise Stop

    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(50):
            starts = [sent(own, bytes(64)) for _ in range(60)]
            views = [theirs.claim(start, 64) for start in starts]
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00002)
                while views:
                    views.pop()
                while True:
                    pass
            except Stop:
                caught += 1
            views.clear()
            theirs.settle()
            assert own.used == 0
    finally:
        signal.signal(signal.SIGALRM, before)
    assert caught == 50
