"""Stands between a driver and a worker, and is no good: what passes is held up, cut anywhere, and now and then lost.

python unreliable.py SEED BYTES_BETWEEN_LOSSES PROGRAM ARGUMENT …
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time

LONGEST_DELAY = 0.03


def pump(source: int, sink: int, chance: random.Random, between: int) -> None:
    """Pass on what comes, not always soon, and not always all of it."""
    left = chance.expovariate(1 / between)
    while piece := os.read(source, chance.choice((1, 100, 4096, 65536))):
        if chance.random() < 0.05:
            time.sleep(chance.uniform(0, LONGEST_DELAY))
        left -= len(piece)
        if left < 0:
            left = chance.expovariate(1 / between)
            start = chance.randrange(len(piece))
            piece = piece[:start] + piece[start + chance.randint(1, 40) :]
        while piece:
            piece = piece[os.write(sink, piece) :]


def main() -> None:
    """Run the program, until it ends or nobody says anything any more."""
    seed, between, argv = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    assert child.stdin is not None
    assert child.stdout is not None
    given, taken = child.stdin, child.stdout

    def forth() -> None:
        try:
            pump(0, given.fileno(), random.Random(seed), between)
        except OSError:
            pass
        given.close()

    threading.Thread(target=forth, daemon=True).start()
    try:
        pump(taken.fileno(), 1, random.Random(seed + 1), between)
    except OSError:
        pass
    os._exit(child.wait() & 0xFF)


if __name__ == "__main__":
    main()
