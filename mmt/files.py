"""Files that are whole or absent under their final name."""

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmt.errors import UserError, first_line


def check_folder(given: str, folder: Path) -> None:
    """Refuse an option that would write into ``folder`` if there is none.

    Args:
        given: the option with its value.
        folder: where it would write.

    Raises:
        UserError: names both.
    """
    if not folder.is_dir():
        raise UserError(f"{given}: there is no folder {folder}")


def partial_path(path: Path) -> Path:
    """Return the temporary name beside ``path`` under which it is written."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, survive a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_and_replace(temporary: Path, final: Path) -> None:
    """Bring ``temporary`` to the disk and give it its final name."""
    sync(temporary)
    os.replace(temporary, final)


def why_not_written(error: BaseException) -> str:
    """Return in a few words why a file could not be written: torch hides a full disk behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return first_line(error)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, as a whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``, as a whole or not at all."""
    try:
        partial_path(path).write_bytes(content)
        sync_and_replace(partial_path(path), path)
    except BaseException:
        partial_path(path).unlink(missing_ok=True)
        raise


def knows_locks(folder: Path) -> bool:
    """Tell whether files in ``folder`` can be locked, which some file systems of clusters do not offer."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return _lock(file.fileno(), fcntl.LOCK_EX)


def _lock(descriptor: int, how: int) -> bool:
    """Lock a file; False if its file system knows no locks."""
    try:
        fcntl.flock(descriptor, how)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time change ``path``, if all of them ask here, and the file system knows locks."""
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        _lock(lock.fileno(), fcntl.LOCK_EX)
        yield


def try_lock(path: Path) -> int | None:
    """Return a file descriptor that holds a lock on ``path`` until it is closed; None if another process has it.

    Where a file system knows no locks, everyone gets them.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def lock_until_exit(path: Path) -> bool:
    """Lock ``path`` for as long as this process lives; False if another process has it.

    Unlike that of ``try_lock``, the lock is not of the processes too that this one starts: it is gone with it, even if
    they live on. Where a file system knows no locks, everyone gets them.

    Raises:
        OSError: if the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closing it, or any other of the file, would unlock it
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_lines(lines: list[str]) -> str:
    """Return the SHA-256 of lines of text in hexadecimal."""
    return hashlib.sha256("\n".join(lines).encode("utf-8", errors="surrogatepass")).hexdigest()
