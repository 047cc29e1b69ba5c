"""Atomic writes on every kind of file system, and folders locked by one process at a time."""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from fastiqa.common import files
from fastiqa.common.files import FolderInUseError, locked, remove_unfinished, replacing, write_atomically


def saved(path):
    """Save a tensor: safetensors makes temporary files of its own, with mode 0600."""
    with replacing(path) as temporary:
        save_file({"x": torch.ones(3)}, temporary)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("write", [saved, lambda path: write_atomically(path, b"new")], ids=["safetensors", "bytes"])
@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_a_new_file_follows_the_umask_and_an_old_one_keeps_its_mode(write, umask, tmp_path):
    before = os.umask(umask)
    try:
        write(tmp_path / "new")
        (tmp_path / "old").write_text("old")
        (tmp_path / "old").chmod(0o640)
        write(tmp_path / "old")
    finally:
        os.umask(before)
    assert (mode(tmp_path / "new"), mode(tmp_path / "old")) == (0o666 & ~umask, 0o640)
    assert (tmp_path / "old").read_bytes() == (tmp_path / "new").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"new", "old"}


def test_a_link_stays_and_the_file_that_it_leads_to_is_written(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    (store / "file").write_text("old")
    for name, to in (("link", store / "file"), ("relative", "store/new"), ("twice", "link"), ("around", "around")):
        (tmp_path / name).symlink_to(to)
    for name in ("link", "relative"):
        write_atomically(tmp_path / name, name.encode())
        assert (tmp_path / name).is_symlink()
    assert {file.name: file.read_text() for file in store.iterdir()} == {"file": "link", "new": "relative"}
    write_atomically(tmp_path / "twice", b"twice")
    assert (store / "file").read_text() == "twice"
    with pytest.raises(OSError, match="around"):
        write_atomically(tmp_path / "around", b"")
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent" / "file")
    with pytest.raises(FileNotFoundError) as error:
        write_atomically(tmp_path / "nowhere", b"")
    assert str(error.value) == f"[Errno 2] No such file or directory: '{tmp_path / 'nowhere'}'"


@pytest.mark.parametrize(
    "name", ["n" * 255, "é" * 127, "語" * 85, "n" * 242 + ".safetensors", os.fsdecode(b"\xe9" * 255)]
)
def test_names_as_long_as_the_system_takes(name, tmp_path):
    saved(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    readable, writable = os.pipe()
    write_atomically(files.Path(f"/dev/fd/{writable}"), b"through a pipe")
    os.close(writable)
    with os.fdopen(readable, "rb") as stream:
        assert stream.read() == b"through a pipe"
    with pytest.raises(IsADirectoryError, match=str(tmp_path)):
        write_atomically(tmp_path, b"")
    saved(files.Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


FSYNC, OPEN = os.fsync, os.open


def refused(number):
    """Make fsync of a folder fail, as on a network mount."""

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        FSYNC(descriptor)

    return {"fsync": fsync}


def open_of_windows(path, flags, *rest):
    if os.path.isdir(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
    return OPEN(path, flags, *rest)


def fsync_of_windows(descriptor):
    import fcntl

    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    FSYNC(descriptor)


@pytest.mark.parametrize(
    "functions",
    [refused(errno.EINVAL), refused(errno.EBADF), {"open": open_of_windows, "fsync": fsync_of_windows}],
    ids=["EINVAL", "EBADF", "Windows"],
)
def test_file_systems_that_do_not_flush_folders(functions, tmp_path, monkeypatch):
    for name, function in functions.items():
        monkeypatch.setattr(os, name, function)
    saved(tmp_path / "file")
    saved(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_error_of_the_disk_is_one_and_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("old")

    def broken(descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match=rf"Input/output error: '{tmp_path}/file'"):
        saved(tmp_path / "file")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "old"}


def test_only_what_a_killed_process_of_ours_left_is_removed(tmp_path):
    program = f"""
import os, signal, sys
from pathlib import Path
from fastiqa.common.files import replacing
with replacing(Path({os.fspath(tmp_path / "model.safetensors")!r})) as temporary:
    (temporary.parent / ".tmpAbCdEf").write_text("what a library makes beside it")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    (tmp_path / ".file.0123456789abcdef.tmp").write_text("of an older version")
    assert len(list(tmp_path.iterdir())) == 2
    foreign = {".report.tmp", ".a.0123.tmp", ".0123456789abcdef.tmp", "a.0123456789abcdef.tmp", ".tmpAbCdEf"}
    for name in foreign:
        (tmp_path / name).write_text("mine")
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == foreign


OWNER = """
import os, sys, time
from pathlib import Path
from fastiqa.common.files import locked
with locked(Path(sys.argv[1])):
    if os.fork() == 0:  # like a reading worker, which briefly survives a kill
        sys.stdin.read()
        os._exit(0)
    print(os.getpid(), flush=True)
    time.sleep(600)
"""


def test_a_folder_has_one_process_at_a_time_and_a_dead_one_leaves_it(tmp_path, caplog):
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        number = owner.stdout.readline().strip()
        name = f"process {number} on {socket.gethostname()}"
        with pytest.raises(FolderInUseError, match=f"^{tmp_path}: in use by {name}$"), locked(tmp_path):
            pytest.fail("two have it")
        owner.kill()
        owner.wait(20)
        with caplog.at_level(logging.WARNING, "fastiqa"), locked(tmp_path):
            assert caplog.messages == [f"{tmp_path}: {name} had the folder and did not end well; taken over"]
            assert (tmp_path / files.LOCK).read_text() == f"{os.getpid()} {socket.gethostname()}\n"
        owner.stdin.close()
    assert not list(tmp_path.iterdir())


def test_a_process_does_not_have_a_folder_twice_by_any_name(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for _ in range(2):
        with locked(tmp_path):
            for name in (".", "link"):
                with pytest.raises(FolderInUseError, match="in use by this process"), locked(tmp_path / name):
                    pytest.fail("two have it")
            assert (tmp_path / files.LOCK).exists()
        assert not (tmp_path / files.LOCK).exists()


def test_where_there_are_no_locks_the_process_id_decides(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "lockf", none)
    here = socket.gethostname()
    with subprocess.Popen(["true"]) as ended:
        pass
    lock = tmp_path / files.LOCK
    for process, machine in ((os.getppid(), here), (ended.pid, "elsewhere")):
        lock.write_text(f"{process} {machine}\n")
        with pytest.raises(
            FolderInUseError, match=f"in use by process {process} on {machine}; if it has ended, remove"
        ):
            locked(tmp_path).__enter__()
    for process in (ended.pid, os.getpid()):
        lock.write_text(f"{process} {here}\n")
        with caplog.at_level(logging.WARNING, "fastiqa"), locked(tmp_path):
            assert f"process {process} on {here} had the folder" in caplog.messages[-1]
    assert not lock.exists()
