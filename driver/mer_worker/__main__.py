"""Starts a worker: frames on fds 0 and 1, the log on fd 2, the control channel on an inherited descriptor.

-m mer_worker [--control-fd N] [--memory-fds DRIVER,WORKER] [--scratch FOLDER] [--cache FOLDER]

With a cache it is alone on a far host: it keeps there what it is sent by digest, and at its end it takes away itself what it
has left, since no driver of that machine can.
"""

from __future__ import annotations

from mer_worker import compiled, stdio


def main() -> None:
    """Serve one driver, then exit."""
    source, sink = stdio.take()
    compiled.spare_the_disk()

    import os
    import site
    import sys

    from mer_worker.loop import Worker
    from mer_worker.orphans import VARIABLE

    if sys.flags.no_site:
        site.main()  # the starter has left it out, so that nothing of it prints on fd 1
    arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    marker, scratch = os.environ.get(VARIABLE, ""), arguments.get("--scratch", "")
    if "--cache" in arguments:
        from mer_worker import alone

        alone.begin(marker, scratch)
    control, memory = arguments.get("--control-fd"), arguments.get("--memory-fds")
    worker = Worker(
        source,
        sink,
        None if control is None else int(control),
        marker=marker,
        scratch=scratch,
        memory=None if memory is None else [int(number) for number in memory.split(",")],
        silence=float(arguments.get("--silence", "0")),
        cache=arguments.get("--cache", ""),
    )
    sys.argv[:] = ["mer-worker"]  # a model that parses arguments finds none of ours
    sys.exit(worker.run())


if __name__ == "__main__":
    main()
