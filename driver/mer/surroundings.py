"""Who runs this process and how he came in: read once by the composition root, and passed on as an Actor."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Mapping
from pathlib import Path

from mer.core.actor import Actor, Guest, Via

MAX_ANCESTORS = 16
"""Processes to look at on the way up: cron stands a few above its command, beyond that it no longer started us."""


def current_actor(via: Via, *, environ: Mapping[str, str], guest: Guest | None = None) -> Actor:
    """Return the actor of this process. A one-shot is further told apart into one by cron and one by SSH.

    A guest stands under his own name, beside the uid of the account that has let him in.
    """
    uid = os.getuid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run under a uid that nobody has
        user = f"uid-{uid}"
    if guest is not None:
        user = guest.name
    ssh = environ.get("SSH_CONNECTION") or None
    if via is Via.ONE_SHOT and ssh:
        via = Via.SSH
    elif via is Via.ONE_SHOT and _started_by_cron():
        via = Via.CRON
    return Actor(
        user=user,
        uid=uid,
        via=via,
        host=socket.gethostname(),
        pid=os.getpid(),
        sudo_user=environ.get("SUDO_USER") or None,
        ssh_client=ssh,
    )


def _started_by_cron() -> bool:
    pid = os.getppid()
    for _ in range(MAX_ANCESTORS):
        if pid <= 1:
            return False
        try:
            name, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").partition("(")[2].rpartition(")")
        except OSError:
            return False
        if name.lower() in ("cron", "crond"):
            return True
        pid = int(rest.split()[1])
    return False
