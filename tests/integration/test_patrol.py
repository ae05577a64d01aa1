"""The thread that reads on over one stream: it waits for nothing that the main thread has taken before it."""

from __future__ import annotations

import subprocess
import sys

TAKEN = """
import os, time
from mer_worker.backlog import Backlog
from mer_worker.channel import Channel
from mer_worker.control import Ending, Pulse
from mer_worker.decoder import Decoder
from mer_worker.interrupts import Interrupts
from mer_worker.patrol import Patrol
from mer_worker.source import SharedSource

ours, theirs = os.pipe()
decoder, backlog = Decoder(), Backlog()
source = SharedSource(ours, decoder, backlog)
patrol = Patrol(
    source, decoder, backlog, Channel(1), Interrupts(), Pulse(), Ending("", ""), cache=None, silence=0.5
)
source.other.acquire()
patrol.start()
os.write(theirs, b"a request")
time.sleep(0.3)  # the thread has seen it, and waits for the lock
os.read(ours, 100)  # the main thread has taken it, and computes
source.other.release()
time.sleep(20)
"""


def test_it_hears_the_silence_of_a_driver_though_what_it_saw_was_taken_by_the_main_thread() -> None:
    done = subprocess.run([sys.executable, "-c", TAKEN], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")


SENDING = """
import os, sys, threading, time
from mer_worker.backlog import Backlog
from mer_worker.channel import Channel
from mer_worker.control import Ending, Pulse
from mer_worker.decoder import Decoder
from mer_worker.interrupts import Interrupts
from mer_worker.patrol import Patrol
from mer_worker.source import SharedSource
from mer_worker.wire import PREAMBLE, Kind, pack

silent = float(sys.argv[1])
ours, theirs = os.pipe()
answers, unread = os.pipe()
decoder, backlog, channel = Decoder(), Backlog(), Channel(unread)
source = SharedSource(ours, decoder, backlog)
Patrol(source, decoder, backlog, channel, Interrupts(), Pulse(), Ending("", ""), cache=None, silence=2.0).start()

def driver():
    os.write(theirs, PREAMBLE + pack(Kind.PING, request=1))
    for _ in range(int(silent / 0.25)):
        time.sleep(0.25)
        os.write(theirs, pack(Kind.PING))
    if len(sys.argv) > 2:
        while os.read(answers, 1 << 20):
            os.write(theirs, pack(Kind.PING))

threading.Thread(target=driver, daemon=True).start()
channel.send(bytes(1 << 20))  # nobody reads it
print("sent")
"""


def test_it_hears_it_though_the_main_thread_is_sending_what_nobody_takes() -> None:
    done = subprocess.run([sys.executable, "-c", SENDING, "0"], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_driver_that_takes_its_time_with_a_large_answer_is_not_taken_for_silent() -> None:
    done = subprocess.run([sys.executable, "-c", SENDING, "5", "reads"], timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "sent\n")


PUSHED = """
import os, threading, time
from mer_worker.backlog import Backlog
from mer_worker.channel import Channel
from mer_worker.control import Ending, Pulse
from mer_worker.decoder import Decoder
from mer_worker.interrupts import Interrupts
from mer_worker.patrol import Patrol
from mer_worker.source import SharedSource
from mer_worker.wire import PREAMBLE, Kind, pack

class Cache:
    def take(self, frame):
        print("taken", frame.kind == Kind.PUT, flush=True)

ours, theirs = os.pipe()
decoder, backlog, cache = Decoder(), Backlog(), Cache()
source = SharedSource(ours, decoder, backlog, cache)
patrol = Patrol(
    source, decoder, backlog, Channel(1), Interrupts(), Pulse(), Ending("", ""), cache=cache, silence=0
)
patrol.start()
os.write(theirs, PREAMBLE + pack(Kind.HELLO, b"{}"))
while not len(backlog):  # the main thread is late: the other one has read it
    time.sleep(0.01)
print("hello", source.next().kind == Kind.HELLO, flush=True)

def driver():
    while not source.reading:
        time.sleep(0.01)
    os.write(theirs, pack(Kind.PUT, request=1) + pack(Kind.CANCEL, request=1))

threading.Thread(target=driver, daemon=True).start()
print("next", source.next().kind == Kind.CANCEL, flush=True)
os._exit(0)
"""


def test_what_is_pushed_keeps_its_place_before_its_cancel_whoever_has_read_the_hello() -> None:
    done = subprocess.run([sys.executable, "-c", PUSHED], timeout=60, capture_output=True, text=True)
    assert (done.stdout.split("\n"), done.stderr) == (["hello True", "taken True", "next True", ""], "")
