"""What searches found out, kept in the user's cache folder for later searches."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from autoquant.core.os_errors import storage_errors
from autoquant.errors import StorageError
from autoquant.results import files
from autoquant.results.forms import Form, Value
from autoquant.results.manifest import seal, verify

_LOG = logging.getLogger(__name__)
_MOST_BYTES = 2**28
_PARTIAL = "."


@dataclass(slots=True)
class Kept:
    """A folder of values, each in a folder of its own that is named by all that it depends on.

    What is damaged, foreign or cannot be written is as if it were not there: no search fails for
    it. Values are data that nothing runs: JSON, CSV and safetensors.

    Attributes:
        folder: Where they are; None: nothing is kept or taken.
        context: What every value depends on: versions, the machine.
        taken: What was taken, in words, with the time at which it was found out.
        note: Told what is taken.
        most_bytes: The oldest are dropped beyond this.
    """

    folder: Path | None = None
    context: object = None
    taken: list[str] = field(default_factory=list)
    note: Callable[[str], None] = _LOG.info
    most_bytes: int = _MOST_BYTES

    def recall(
        self,
        title: str,
        form: Form[Value],
        depends_on: Callable[[], object | None],
        find: Callable[[], Value],
        is_worth_keeping: Callable[[Value], bool] = lambda value: True,
    ) -> Value:
        """Take a value that an earlier search found, or find it and keep it.

        Args:
            title: Names the value in `taken`.
            form: How it is kept.
            depends_on: Gives all that decides it, by `repr`; None: that cannot be told.
            find: Finds it.
            is_worth_keeping: Whether a later search should take what was found.
        """
        known = None if self.folder is None else depends_on()
        if self.folder is None or known is None:
            return find()
        content = repr((title, form.name, self.context, known))
        entry = self.folder / hashlib.sha256(content.encode()).hexdigest()
        try:
            if (entry / form.name).exists():
                return self._taken(title, form, entry)
        except (StorageError, OSError) as error:
            _LOG.warning("%s is not used: %s", entry, error)
        value = find()
        if is_worth_keeping(value):
            self._keep(title, form, entry, value)
        return value

    def _taken(self, title: str, form: Form[Value], entry: Path) -> Value:
        """Read an entry."""
        if hasattr(os, "getuid") and entry.stat().st_uid != os.getuid():
            raise StorageError("another user wrote it")
        if not (entry / files.MANIFEST).exists():
            raise StorageError("it has no checksum")
        verify(entry)
        value = form.load(entry)
        found = time.localtime((entry / form.name).stat().st_mtime)
        self.taken.append(f"{title} ({time.strftime('%Y-%m-%d %H:%M', found)})")
        self.note(f"{self.taken[-1]}: taken from an earlier search")
        return value

    def _keep(self, title: str, form: Form[Value], entry: Path, value: Value) -> None:
        """Put an entry in place in one step, with its checksum, and drop the oldest."""
        partial = entry.with_name(f"{_PARTIAL}{entry.name}.{os.getpid()}")
        try:
            form.save(partial, value)
            seal(partial)
            shutil.rmtree(entry, ignore_errors=True)
            with storage_errors(entry, "write"):
                partial.rename(entry)
        except (StorageError, OSError) as error:
            _LOG.warning("%s is not kept for later searches: %s", title, error)
            return
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        _LOG.info("%s kept in %s", title, entry)
        self._drop_oldest(entry.parent)

    def _drop_oldest(self, folder: Path) -> None:
        """Drop entries, oldest first, until the rest is small enough."""
        with suppress(OSError):  # another search drops them too
            sizes = {
                entry: sum(path.stat().st_size for path in entry.glob("*"))
                for entry in sorted(folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
            }
            total = sum(sizes.values())
            for entry, size in sizes.items():
                if total <= self.most_bytes:
                    break
                shutil.rmtree(entry, ignore_errors=True)
                total -= size


def cache_folder() -> Path | None:
    """The folder of this user's cache: `$XDG_CACHE_HOME/autoquant`, or below `~/.cache`.

    None where the user has no home: that of a container, of whom the system knows the number alone.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "autoquant"
    except RuntimeError:
        return None
