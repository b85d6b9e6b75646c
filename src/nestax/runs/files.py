"""Files that appear whole or not at all, and the file system's refusals in plain words."""

import contextlib
import errno
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from .errors import RunError


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file so that at every moment either the old or the new file is there, complete.

    The new file is on disk when this returns.

    Args:
        path: the file to write or replace; its folder must exist.
        content: text, written as UTF-8, or bytes.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _sync(folder: Path) -> None:
    """Has the name of a file on disk, where the system can."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError as error:  # some file systems have no such thing
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(handle)


def resuming(path: Path) -> str:
    """The command that goes on with a run."""
    return f"nestax resume {shlex.quote(str(path))}"


@contextlib.contextmanager
def refusals(path: Path) -> Iterator[None]:
    """A context in which errors of the file system become a `RunError` that says what to do.

    Args:
        path: the folder or file that is written, for the message.

    Returns:
        A context manager.

    Raises:
        RunError: the disk is full, or a file cannot be written. Other errors pass unchanged.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        # Tensorstore, under orbax, reports the system's refusals as a ValueError that quotes them.
        code = getattr(error, "errno", None)
        what = getattr(error, "filename2", None) or getattr(error, "filename", None) or path
        quoted = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(quoted[1]) if code is None and quoted else code
        if code is None:
            raise
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(
                f"the disk is full: could not write to {path}. What was written before is intact; "
                f"make room, then go on with the same call, or with: {resuming(path)}"
            ) from error
        raise RunError(
            f"cannot write to {what}: {os.strerror(code)}. What was written before is intact; "
            "mend that, or name another folder, one you may write to"
        ) from error
