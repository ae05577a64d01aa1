"""Lending by frames: this MER as a worker of another one (docs/wire.md, section 7.1).

The guest's MER names a version by the digests of its package and weights; this one looks whether it lends a version of just
these, and runs it by its own registry, pool and log. No content comes in, and none goes out.
"""

from __future__ import annotations

import asyncio
import os

from mer.core.actor import Guest
from mer.faces.face import Face
from mer.faces.serve_ssh.conversation import Conversation
from mer.faces.serve_ssh.pipes import Output, reading


async def lend(face: Face, guest: Guest) -> None:
    """Speak as a worker on stdin and stdout, until the guest is done.

    Raises:
        MerError: as when a Mer is opened.
    """
    mer = await face.mer()  # what keeps it from being opened is told in words, before the first byte of a worker
    assert face.stdin is not None
    output = Output(os.dup(1))
    conversation = Conversation(mer, guest, output)
    try:
        async with reading(face.stdin.fileno(), conversation.take) as ended:
            conversation.begin()
            await asyncio.wait((ended, conversation.over), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await conversation.aclose()
        await output.aclose()
    if conversation.bug is not None:
        raise conversation.bug
