"""Files that results go to: whole or not at all, and in the place that was meant."""

import contextlib
import os
import stat
import threading

import pytest

from mer.core.errors import ContentUnwritable
from mer.faces.render.files import written


def write(path, content=b"result"):
    with written(path) as file:
        file.write(content)


def test_a_file_is_there_when_it_is_whole(tmp_path):
    with written(tmp_path / "out") as file:
        file.write(b"result")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out").read_bytes() == b"result"
    assert os.listdir(tmp_path) == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "out").write_bytes(b"before")
    with contextlib.suppress(KeyError), written(tmp_path / "out") as file:
        file.write(b"half of the resu")
        raise KeyError
    assert (tmp_path / "out").read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out"]


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_a_file_that_is_replaced_keeps_its_mode(tmp_path):
    (tmp_path / "out").touch()
    (tmp_path / "out").chmod(0o604)
    write(tmp_path / "out")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o604


def test_a_link_still_leads_to_the_file_that_was_written(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk/out").write_bytes(b"before")
    (tmp_path / "out").symlink_to("disk/out")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk/out").read_bytes() == b"result"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "out")
    read = []
    reading = threading.Thread(target=lambda: read.append((tmp_path / "out").read_bytes()))
    reading.start()
    write(tmp_path / "out")
    reading.join()
    assert read == [b"result"]
    assert (tmp_path / "out").is_fifo()


def test_a_name_may_be_as_long_as_names_are(tmp_path):
    write(tmp_path / ("ü" * 127))
    assert os.listdir(tmp_path) == ["ü" * 127]


def test_a_full_device_is_told(tmp_path):
    (tmp_path / "out").symlink_to("/dev/full")
    with pytest.raises(ContentUnwritable, match="No space left on device"):
        write(tmp_path / "out")
    assert (tmp_path / "out").is_char_device()


@pytest.mark.parametrize("name", ["nowhere/out", "."])
def test_what_cannot_be_written_is_told(tmp_path, name):
    with pytest.raises(ContentUnwritable):
        write(tmp_path / name)
    assert os.listdir(tmp_path) == []
