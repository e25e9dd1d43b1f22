"""What the operating system refuses, as an error that names the file and the mend."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from autoquant.errors import StorageError

_MENDS = {
    errno.ENOSPC: "free space on that disk, then go on with --resume; what is finished is kept",
    errno.EDQUOT: "free some of your quota there, then go on with --resume",
    errno.ENOENT: "it was deleted or moved away: put it back, or choose another output",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), then go on with --resume",
    errno.EACCES: "make it writable for you, or choose another output",
    errno.EPERM: "make it writable for you, or choose another output",
    errno.EROFS: "that file system is read-only; choose another output",
    errno.EEXIST: "a file stands where the folder belongs; move it away, or choose another output",
    errno.ENOTDIR: "a part of that path is a file; choose another output",
    errno.EISDIR: "a folder stands where the file belongs; move it away",
    errno.ENAMETOOLONG: "give a shorter path",
    errno.EIO: "the disk reports an error; choose an output on another one",
}


@contextmanager
def storage_errors(path: Path, action: str) -> Iterator[None]:
    """Turn what the operating system refuses into a `StorageError` with its mend.

    Args:
        path: The file or folder, named in the message.
        action: What was tried: "write", "read", "lock".
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            f"cannot {action} {path}: {reason}",
            hint=_MENDS.get(error.errno or 0, "choose another output folder"),
        ) from error
