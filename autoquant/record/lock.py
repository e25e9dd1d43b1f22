"""One controller at a time: an exclusive lock on a result folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from autoquant.core.refusals import storage_errors
from autoquant.errors import StorageError


class FolderLock:
    """Held from construction to `close`, or until the process ends, however it ends.

    Args:
        path: The lock file; made if needed. It holds the owner's process id.

    Raises:
        StorageError: Another process holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(path, "lock"):
            self._file = path.open("a+", encoding="ascii")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._file.truncate(0)
                self._file.write(f"{os.getpid()}\n")
                self._file.flush()
            except BlockingIOError as error:
                owner = _owner(path)
                self._file.close()
                raise StorageError(
                    f"{path.parent} is in use by process {owner}",
                    hint="wait until that search ends (or stop it), or choose another output",
                ) from error
            except OSError:
                self._file.close()
                raise

    def close(self) -> None:
        """Give the lock back; may be called again."""
        self._file.close()


def _owner(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
