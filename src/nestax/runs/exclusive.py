"""One process at a time: the lock on an open file, on Linux, macOS and Windows."""

import os

try:
    import fcntl
except ModuleNotFoundError:
    fcntl = None
try:
    import msvcrt
except ModuleNotFoundError:
    msvcrt = None

# Windows locks bytes, and no other handle can read a locked byte: this one lies behind the end of
# every lock file. Its position must fit into 32 bits.
_BYTE = 1 << 30


def hold(handle: int) -> None:
    """Locks an open file until it is closed. Without a lock on systems that have none, which run
    one process only.

    Args:
        handle: the file's descriptor; on Windows its position is moved to 0.

    Raises:
        BlockingIOError, PermissionError: another process, or another open file of this one, holds
            the lock. The first on Linux and macOS, the second on Windows.
        OSError: the file system has no locks.
    """
    if fcntl is not None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif msvcrt is not None:
        os.lseek(handle, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
