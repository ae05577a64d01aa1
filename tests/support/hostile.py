"""What a guest of `mer serve-ssh` may try: command lines that want more than is lent, and stdin that is no input."""

from __future__ import annotations

import io
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np


def hostile(canary: Path, state: Path) -> list[str]:
    """Command lines that must do nothing. `canary` is a file that none of them may make."""
    return [
        f"touch {canary}",
        f"sh -c 'touch {canary}'",
        f"/bin/sh -c 'touch {canary}'",
        f"; touch {canary}",
        f"| touch {canary}",
        f"&& touch {canary}",
        f"`touch {canary}`",
        f"$(touch {canary})",
        f"run shout:1;touch {canary}",
        f"run shout x; touch {canary}",
        f"run shout x && touch {canary}",
        f"run shout x > {canary}",
        f"run shout x -o text={canary}",
        f"run shout x --output text={canary}",
        f"run shout x --output=text={canary}",
        f"run shout x --output-dir {canary}",
        f"run shout x --output-dir={canary}",
        f"run shout x --trace {canary}",
        f"run shout x --trace={canary}",
        "run shout @/etc/passwd",
        "run shout -i text=@/etc/passwd",
        "run shout --input text=@/etc/passwd",
        "run shout --input=text=@-",
        "run shout --inputs @/etc/passwd",
        "run shout --input-parts /etc/passwd",
        "run shout --on local x",
        "run shout --on=local x",
        "run --debug shout x",
        "run shout x --help",
        "run",
        "run shout x y",
        "run ../../etc/passwd x",
        "run shout --timeout -1 x",
        "run shout --timeout nan x",
        "--help",
        "help",
        "-h",
        "--version",
        "version",
        "-a model retire shout --yes",
        "--allow-model-server-runtime-changes model retire shout --yes",
        "mer -a model retire shout --yes",
        "mer mer run shout x",
        "model retire shout --yes",
        "model edit shout --description owned",
        "model alias set shout prod 1",
        "model place shout local",
        f"model register owned {state} --entry handler:load",
        "model-delete shout",
        "execute shout x",
        "weights list",
        "server list",
        "server ping local",
        f"server register owned --address 127.0.0.1 --user {canary.name}",
        f"registry export {canary}",
        f"registry apply {state}/home/.env",
        f"log export {canary}",
        "log list",
        "store gc --yes",
        "driver list",
        f"db backup {canary}",
        "db status",
        "settings",
        f"--database-url mem:// run shout x --output text={canary}",
        f"--env-file {state}/home/.env run shout x",
        "--auditor log list",
        "serve-ssh --actor root",
        "mer serve-ssh --actor root",
        "frames x",
        "model list --retired",
        "model list --limit 0",
        "model list --limit 9999999999",
        "model list --after ../../x",
        "model show shout --after 1",
        "model show shout digits",
        "model lis",
        "Run shout x",
        "run shout 'unended",
        "scp -t /tmp",
        "internal-sftp",
        "rsync --server . /",
        "python3 -c 'import os'",
        "\nrun shout x",
        "run shout x\ntouch /tmp/x",
        "run shout 'a\x1b[2Jb'",
        "run shout \x7f",
        "run shout " + "x" * 9000,
    ]


def zipped(*members: tuple[str, bytes], **options: Any) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


def pickled(path: Path) -> bytes:
    out = io.BytesIO()
    np.savez(out, text=np.array([Touch(str(path))], dtype=object))
    return out.getvalue()


class Touch:
    """What makes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def bomb(*, says: int) -> bytes:
    """A zip of a few KiB that unpacks to 16 MiB, and says that it does so to another size."""
    content = bytearray(zipped(("text.npy", bytes(16 << 20)), compression=zipfile.ZIP_DEFLATED))
    for signature, at in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + at, says)
    return bytes(content)


def abuses(canary: Path) -> dict[str, bytes]:
    empty = "{'descr': '<U0', 'fortran_order': False, 'shape': (%s,), }"
    shape = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,), }"
    honest = zipped(
        ("text.npy", npy("{'descr': '<U1', 'fortran_order': False, 'shape': (), }", "x".encode("utf-32-le")))
    )
    end = bytearray(honest)
    struct.pack_into("<I", end, len(end) - 10, 1 << 30)
    return {
        "garbage": os.urandom(4096),
        "no object": b"[1, 2]",
        "deep": b"[" * 100_000,
        "cut JSON": b'{"text": "a',
        "not UTF-8": b'{"text": "\xff"}',
        "an npy alone": npy(shape % 4, bytes(16)),
        "a pickle": b"\x80\x04\x95",
        "pickled objects": pickled(canary),
        "a bomb": bomb(says=3 << 30),
        "a bomb that lies": bomb(says=4),
        "a header beyond its bytes": zipped(("text.npy", npy(shape % (1 << 40)))),
        "a header of no bytes": zipped(("text.npy", npy(empty % (1 << 50)))),
        "a negative shape": zipped(("text.npy", npy(shape % "-1, -4", bytes(16)))),
        "a record": zipped(
            ("text.npy", npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (), }", bytes(4)))
        ),
        "a header that calls": zipped(("text.npy", npy("__import__('os')"))),
        "no text": zipped(("text.npy", npy("{'descr': '<U1', 'fortran_order': False, 'shape': (), }", b"\xff" * 4))),
        "a cut zip": honest[:-30],
        "an end that lies": bytes(end),
        "a comment behind": honest + b"PK\x03\x04",
        "a damaged member": honest.replace(b"x\0\0\0", b"y\0\0\0", 1),
        "another file": zipped(("text.txt", b"x")),
        "lzma": zipped(("text.npy", bytes(100)), compression=zipfile.ZIP_LZMA),
        "two of a name": zipped(("a.npy", b""), ("b.npy", b"")).replace(b"b.npy", b"a.npy"),
        "too many": zipped(*((f"{n}.npy", b"") for n in range(300))),
    }
