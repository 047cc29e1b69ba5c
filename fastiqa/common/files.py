"""Files that appear only when complete, and folders that one process at a time may write to."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".fastiqa.lock"
LONGEST = 100  # bytes of a name in its temporary name; every file system takes names of 143 bytes
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
# Errors of a file system that cannot flush a folder or a file; the file itself is written.
_NO_FLUSH = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP}
_NO_LOCKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}

_log = logging.getLogger("fastiqa")
_held: set[tuple[int, int]] = set()  # folders locked by this process, whose threads the system does not tell apart
_held_guard = threading.Lock()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name; the file written there replaces `path`, all or nothing.

    The new file is on the disk before the old one goes. If anything fails, the old one stays and the new one is
    removed. A new file gets its mode from the umask, a replacement keeps the old file's mode. A symbolic link stays and
    its target is replaced. A path that is not a regular file, such as /dev/stdout, is written to.

    Raises: OSError of the system, with the file's name; IsADirectoryError.
    """
    try:
        old = os.stat(path)
    except FileNotFoundError:
        old = None
    if old is not None and stat.S_ISDIR(old.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if old is not None and not stat.S_ISREG(old.st_mode):
        with _written_to(path) as temporary:
            yield temporary
        return
    target = Path(os.path.realpath(path))
    # In a new folder, since libraries may put temporary files beside the one that they write.
    folder = target.with_name(f".{_beginning(target.name)}.{secrets.token_hex(8)}.tmp")
    temporary = folder / "new"
    try:
        folder.mkdir(0o700)
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode if old is None else old.st_mode)
        yield temporary
        _flush(temporary, os.O_RDWR)  # Windows flushes only descriptors that may write
        temporary.chmod(mode)
        os.replace(temporary, target)
        _flush(target.parent, os.O_RDONLY)
    except OSError as error:
        ours = error.filename is None or os.fspath(error.filename).startswith(os.fspath(folder))
        if error.errno is not None and ours:  # a failed write does not name its file
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2
        raise
    finally:
        _remove(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file, all or nothing; see `replacing`.

    Raises: OSError of the system (no space, no permission), with a file name.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of a killed process, .<name>.<16 digits>.tmp from `replacing`.

    The caller must hold the folder: see `locked`.
    """
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Remove a file, or a folder that holds files alone, if possible."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()


class FolderInUseError(OSError):
    """Another process, or another thread, is writing to a folder. One line: folder and process."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Reserve a folder for this process, by a lock file with the process id.

    The system drops the lock when the process ends, in whatever way. A lock file left behind is taken over, and the
    logger ``fastiqa`` names its process. Where the file system has no locks, the process id decides; whether a process
    on another machine still runs cannot be known.

    Args:
        folder: an existing folder.

    Raises: FolderInUseError; OSError where the lock file cannot be written.
    """
    about = os.stat(folder)
    key = (about.st_dev, about.st_ino)
    with _held_guard:
        if key in _held:
            raise FolderInUseError(f"{folder}: in use by this process")
        _held.add(key)
    try:
        descriptor = _lock(folder)
        try:
            yield
        finally:
            _unlock(folder / LOCK, descriptor)
    finally:
        with _held_guard:
            _held.discard(key)


def is_empty(folder: Path) -> bool:
    """Whether a folder holds nothing, or hidden files alone: a complete file of ours is not hidden."""
    return all(name.startswith(".") for name in os.listdir(folder))


def _lock(folder: Path) -> int:
    """Return the open lock file, locked, with this process's id in it."""
    path = folder / LOCK
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            by_system = _locked_by_system(descriptor)
            before = os.read(descriptor, 4096).decode("utf-8", "replace").split()
            owner = f"process {before[0]} on {before[1]}" if len(before) == 2 else "another process"
            if by_system is False or (by_system is None and before and not _has_ended(*before)):
                hint = "" if by_system is False else f"; if it has ended, remove {path}"
                raise FolderInUseError(f"{folder}: in use by {owner}{hint}")
            if not _is_there(path, descriptor):  # its owner removed it just now
                os.close(descriptor)
                continue
            if before:
                _log.warning("%s: %s had the folder and did not end well; taken over", folder, owner)
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()} {socket.gethostname()}\n".encode())
            return descriptor
        except BaseException:
            os.close(descriptor)
            raise


def _unlock(path: Path, descriptor: int) -> None:
    if fcntl is None:  # Windows cannot remove an open file
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)  # while locked: afterwards the file may belong to another process
    os.close(descriptor)


def _locked_by_system(descriptor: int) -> bool | None:
    """Whether the lock is ours now, or None without locks.

    Not `flock`: forked processes, such as those that read images, would hold it beyond their parent's end.
    """
    if fcntl is None:
        return None
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _has_ended(process: str, machine: str = "") -> bool:
    """Whether a process of this machine has certainly ended. False if that cannot be known."""
    if machine != socket.gethostname() or not process.isdecimal() or os.name != "posix":
        return False
    if int(process) == os.getpid():  # this process does not have the folder: an earlier process had its number
        return True
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def _beginning(name: str) -> str:
    """The beginning of a name, short enough for a temporary name."""
    return os.fsencode(name)[:LONGEST].decode("utf-8", "ignore")


@contextlib.contextmanager
def _written_to(path: Path) -> Iterator[Path]:
    """Yield a temporary name and copy its file into `path` at the end."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "new")
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, path.open("wb", buffering=0) as sink:
            shutil.copyfileobj(source, sink)


def _flush(path: Path, flags: int) -> None:
    """Flush to the disk, if the file system can."""
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
