"""One controller at a time: an exclusive lock on a result folder."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError


class FolderLock:
    """Held from construction to `close`, or until the process ends, however it ends.

    Args:
        path: The lock file; made if needed. It holds the owner's process id.

    Raises:
        StorageError: Another process holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)
        with storage_errors(path, "lock"):
            owner = _owner(path)
            try:
                self._lock.acquire(timeout=0)
            except Timeout as error:
                raise StorageError(
                    f"{path.parent} is in use by process {owner}",
                    hint="wait until that search ends (or stop it), or choose another output",
                ) from error
            try:
                path.write_text(f"{os.getpid()}\n", encoding="ascii")
            except OSError:
                self.close()
                raise

    def close(self) -> None:
        """Give the lock back; may be called again."""
        self._lock.release()


def _owner(path: Path) -> str:
    if not path.exists():
        return "unknown"
    return path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
