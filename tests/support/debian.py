"""A small Debian of any release, for what runs in it by chroot: its packages' files and no more, made in seconds.

debootstrap makes a whole system, and takes a minute or two. Here apt finds and checks the packages (signed by Debian's own
keys), and their files are laid out; no script of theirs is run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "http://deb.debian.org/debian"
SECONDS = 300
"""Some 20 MB are fetched, in seconds; from a slow mirror in minutes."""


def missing() -> str | None:
    """Return why none can be made here, or None."""
    if os.geteuid():
        return "root is needed"
    for program in ("apt-get", "dpkg-deb", "chroot"):
        if shutil.which(program) is None:
            return f"{program} is needed"
    return None if KEYS.exists() else f"{KEYS} is needed"


def make(release: str, packages: Sequence[str], folder: Path) -> None:
    """Lay out the packages and all that they depend on under `folder`, whole or not at all.

    Raises:
        subprocess.SubprocessError: a package cannot be had.
    """
    work = folder.with_name(f"{folder.name}.made")
    shutil.rmtree(work, ignore_errors=True)
    lists, archives, root = work / "lists", work / "archives", work / "root"
    for each in (lists / "partial", archives / "partial", root):
        each.mkdir(parents=True)
    (work / "status").touch()  # nothing is installed, so everything is fetched
    (work / "sources.list").write_text(f"deb [signed-by={KEYS}] {MIRROR} {release} main\n")
    options = {
        "Dir::State": work,
        "Dir::State::lists": lists,
        "Dir::State::status": work / "status",
        "Dir::Cache": work,
        "Dir::Cache::archives": archives,
        "Dir::Etc::sourcelist": work / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",  # apt's own user may not enter a test's folder
        "DPkg::Lock::Timeout": "60",
    }
    apt = ["apt-get", "-q", "-y", *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]
    try:
        _run(*apt, "update", "--error-on=any")
        _run(*apt, "install", "--download-only", *packages)
        for package in sorted(archives.glob("*.deb")):
            _run("dpkg-deb", "--extract", package, root)
        for name in ("bin", "sbin", "lib", "lib64"):  # of releases whose packages have all below /usr
            if (root / "usr" / name).is_dir() and not (root / name).exists():
                (root / name).symlink_to(f"usr/{name}")
        (root / "tmp").mkdir(exist_ok=True)
        (root / "dev").mkdir(exist_ok=True)
        _run("mknod", "-m", "666", root / "dev/null", "c", "1", "3")
        root.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, capture_output=True, check=True, timeout=SECONDS, env={**os.environ, "LC_ALL": "C.UTF-8"})
