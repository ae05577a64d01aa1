"""Folders that are ours alone."""

import os
from pathlib import Path

import pytest

from mer.core.errors import FolderUnsafe
from mer.folders import made_state_folder, own_folder


def test_it_is_made_private_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = own_folder(tmp_path / "state")
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_one_that_is_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o750)
    with pytest.raises(FolderUnsafe, match="open to others"):
        own_folder(tmp_path / "state")


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "state").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FolderUnsafe, match="symbolic link"):
        own_folder(tmp_path / "state")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").touch(0o700)
    with pytest.raises(FolderUnsafe, match="no folder"):
        own_folder(tmp_path / "state")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_somebody_elses_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.chown(tmp_path / "state", 12345, -1)
    with pytest.raises(FolderUnsafe, match="belongs to uid 12345"):
        own_folder(tmp_path / "state")


def test_a_state_folder_is_made_private_whoever_comes_first(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = made_state_folder(tmp_path / "state")
    finally:
        os.umask(before)
    assert made.stat().st_mode & 0o777 == (0o700 if os.geteuid() else 0o711)


def test_a_state_folder_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    assert made_state_folder(tmp_path / "state").stat().st_mode & 0o777 == 0o755
