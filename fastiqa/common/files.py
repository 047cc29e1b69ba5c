"""Files that appear under their names only when they are complete, and folders that one process at a time writes to."""

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
LONGEST = 100  # bytes of a name that a temporary name repeats; file systems take names of 143 bytes at least
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.tmp", re.DOTALL)
# What the system answers where a folder, or a file on that file system, cannot be flushed; the file itself is written.
_NO_FLUSH = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.EISDIR, errno.ENOSYS, errno.ENOTSUP}
_NO_LOCKS = {errno.EINVAL, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP}

_log = logging.getLogger("fastiqa")
_held: set[tuple[int, int]] = set()  # folders that this process has locked: the system does not tell its threads apart
_held_guard = threading.Lock()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name; what is written there takes the place of `path`, all or nothing.

    The file is on the disk before the old one goes. If anything fails, the old one stays and the new one is removed. A
    new file has the mode that the umask gives, in the place of an old one that one's mode. A symbolic link stays, and
    the file that it leads to is replaced. What is no regular file, such as /dev/stdout, is written to.

    Raises: OSError as the system says, with the file's name; IsADirectoryError.
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
    # A folder of its own: libraries put temporary files of their own beside the one that they are asked for.
    folder = target.with_name(f".{_beginning(target.name)}.{secrets.token_hex(8)}.tmp")
    temporary = folder / "new"
    try:
        folder.mkdir(0o700)
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode if old is None else old.st_mode)
        yield temporary
        _flush(temporary, os.O_RDWR)  # Windows flushes no descriptor that only reads
        temporary.chmod(mode)
        os.replace(temporary, target)
        _flush(target.parent, os.O_RDONLY)
    except OSError as error:
        ours = error.filename is None or os.fspath(error.filename).startswith(os.fspath(folder))
        if error.errno is not None and ours:  # a write that fails does not say of which file
            error.filename = str(path)
            if error.filename2 is not None:
                del error.filename2
        raise
    finally:
        _remove(folder)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file, all or nothing; see `replacing`.

    Raises: OSError as the system says (no space, no permission), with a file name.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def remove_unfinished(folder: Path) -> None:
    """Removes what a killed process left of files that it was writing with `replacing`: .<name>.<16 digits>.tmp.

    Nobody else may be writing there: see `locked`.
    """
    for path in folder.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            _remove(path)


def _remove(path: Path) -> None:
    """Removes a file, or a folder that holds files alone, if that can be."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            for file in path.iterdir():
                file.unlink()
            path.rmdir()
        else:
            path.unlink()


class FolderInUseError(OSError):
    """A folder that another process, or another thread of this one, is writing to. One line: folder and process."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes that ask for the same folder out of it, by a lock file with the process id.

    The system drops the lock of a process that ends, however it ends. A lock file that is left is taken over, and the
    logger ``fastiqa`` says whose it was. Where the file system has no locks the process id decides; of a process on
    another machine it cannot be known whether it still runs.

    Args:
        folder: that exists.

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
    """Whether a folder holds nothing, or hidden files alone: none of ours has a hidden name once it is complete."""
    return all(name.startswith(".") for name in os.listdir(folder))


def _lock(folder: Path) -> int:
    """An open lock file that is locked and has this process's id."""
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
            if not _is_there(path, descriptor):  # its owner has just removed it
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
    if fcntl is None:  # Windows removes no open file
        os.close(descriptor)
        path.unlink(missing_ok=True)
        return
    path.unlink(missing_ok=True)  # while it is locked: afterwards it may be another's
    os.close(descriptor)


def _locked_by_system(descriptor: int) -> bool | None:
    """Whether the lock is ours now, or None where there are no locks.

    Not `flock`: processes that are forked, such as those that read images, would hold it beyond the end of their
    parent.
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
    """Whether a process of this machine is known to run no more. False where that cannot be known."""
    if machine != socket.gethostname() or not process.isdecimal() or os.name != "posix":
        return False
    if int(process) == os.getpid():  # nobody in this process has the folder: an earlier process had this number
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
    """So much of a name that a temporary one can be made of it."""
    return os.fsencode(name)[:LONGEST].decode("utf-8", "ignore")


@contextlib.contextmanager
def _written_to(path: Path) -> Iterator[Path]:
    """A temporary name, whose file is copied into `path` in the end."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "new")
        temporary.touch()
        yield temporary
        with temporary.open("rb") as source, path.open("wb", buffering=0) as sink:
            shutil.copyfileobj(source, sink)


def _flush(path: Path, flags: int) -> None:
    """To the disk, where the file system can."""
    try:
        descriptor = os.open(path, flags)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
