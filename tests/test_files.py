"""Folders appear whole or not at all, whatever is killed in between; locks say who must wait."""

import errno
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from emobench.errors import HeldError, StorageError
from emobench.files import ASIDE, check_writable, hold, published, require_space, storage_errors, sweep, write_bytes


def visible(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def publish(folder, text, **options):
    with published(folder, **options) as new:
        write_bytes(new / "file", text.encode())


def test_published_folder_appears_when_the_block_ends(tmp_path):
    with published(tmp_path / "deep" / "folder") as new:
        write_bytes(new / "file", b"1")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "file").read_bytes() == b"1"
    assert hidden(tmp_path / "deep") == []


def test_published_folder_is_gone_when_the_block_fails(tmp_path):
    publish(tmp_path / "folder", "old")
    with pytest.raises(ZeroDivisionError), published(tmp_path / "folder", replaces=True) as new:
        write_bytes(new / "file", bytes(1 // (not new)))
    assert (tmp_path / "folder" / "file").read_text() == "old"
    assert hidden(tmp_path) == []


def test_published_replaces_only_when_it_may(tmp_path):
    publish(tmp_path / "folder", "1")
    with pytest.raises(StorageError, match="not empty"):
        publish(tmp_path / "folder", "2")
    publish(tmp_path / "folder", "2", replaces=True)
    assert (tmp_path / "folder" / "file").read_text() == "2"
    (tmp_path / "empty").mkdir()
    publish(tmp_path / "empty", "3")
    assert visible(tmp_path) == ["empty", "folder"]
    assert hidden(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from emobench import files
moment, folder, replace, n_calls = int(sys.argv[1]), Path(sys.argv[2]), os.replace, 0
def killing(source, target):
    global n_calls
    if Path(source).is_dir():
        if n_calls == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        n_calls += 1
    replace(source, target)
os.replace = killing
with files.published(folder, replaces=True) as new:
    files.write_bytes(new / "file", b"new")
"""


@pytest.mark.parametrize("moment", [0, 1, 2], ids=["before", "between the renames", "never"])
def test_killed_publisher_leaves_the_old_folder_or_the_new_one(tmp_path, moment):
    publish(tmp_path / "folder", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(moment), str(tmp_path / "folder")], check=False)
    assert done.returncode == (0 if moment == 2 else -signal.SIGKILL)
    if moment < 2:
        assert any(ASIDE in name for name in hidden(tmp_path))
    with pytest.raises(ZeroDivisionError), published(tmp_path / "folder", replaces=True):
        1 / 0  # noqa: B018  (the next call puts the old one back, whatever becomes of its own)
    assert (tmp_path / "folder" / "file").read_text() == ("new" if moment == 2 else "old")
    assert hidden(tmp_path) == []


def test_what_a_living_process_has_aside_is_left_alone(tmp_path):
    with published(tmp_path / "folder") as new:
        write_bytes(new / "file", b"1")
        publish(tmp_path / "other", "2")
        with pytest.raises(ZeroDivisionError), published(tmp_path / "folder"):
            1 / 0  # noqa: B018
        assert (new / "file").exists()
    assert (tmp_path / "folder" / "file").read_bytes() == b"1"


def test_held_lock_is_refused_with_the_message_and_free_again_afterwards(tmp_path):
    lock = tmp_path / "new" / "x.lock"
    with (
        hold(lock, refusal="x: in use."),
        pytest.raises(HeldError, match=r"^x: in use\.$"),
        hold(lock, refusal="x: in use."),
    ):
        pass
    with hold(lock, refusal=""):
        pass


def test_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"), hold(tmp_path / "file" / "x.lock", refusal=""):
        pass


def test_sweep_removes_what_is_half_written_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "deep" / "whole", b"1")
    for name in (".half.abc.part", "deep/.half.abc.part", "deep/part"):
        (tmp_path / name).touch()
    sweep(tmp_path, below=False)
    assert (tmp_path / "deep" / ".half.abc.part").exists()
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["deep", "part", "whole"]


def test_require_space_adds_up_what_lies_on_one_disk(tmp_path):
    assert require_space({tmp_path: 1, tmp_path / "none": 1}) == []
    [lacking] = require_space({tmp_path: 2**61, tmp_path / "none": 2**61})
    assert f"needs about {2**62 / 1e6:.1f} MB free" in lacking


@pytest.mark.skipif(os.name != "posix", reason="POSIX")
def test_check_writable_of_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_system_without_inodes_is_told_from_a_full_one(tmp_path, monkeypatch):
    """N48."""
    real = os.statvfs(tmp_path)
    state = SimpleNamespace(f_files=12, f_favail=0, f_bavail=real.f_bavail or 1)
    monkeypatch.setattr(os, "statvfs", lambda _: state)
    with pytest.raises(StorageError, match="no free inodes"), storage_errors(tmp_path / "x" / "y"):
        raise OSError(errno.ENOSPC, "No space left on device")
    state.f_favail = 5
    with pytest.raises(StorageError, match="The disk is full"), storage_errors(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")
