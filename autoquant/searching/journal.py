"""The study's journal: a half-written ask is cut off, and what the disk refuses names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation
from optuna.trial import TrialState

from autoquant.core.refusals import storage_errors
from autoquant.errors import StorageError

ROUND = "round"
"""The last attribute that an ask sets on its trial."""


class Journal(JournalFileBackend):
    """Optuna's journal of one study, in a folder that no other process writes.

    An ask is many lines. Opening cuts off what a crash or a full disk left of a last one, so that
    it is asked again from the start, with the same result; and it removes a dead process's lock.

    Args:
        path: The file; made if needed.

    Raises:
        StorageError: The file cannot be written, or a line before the last is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lock = path.with_name(path.name + ".lock")
        with storage_errors(path, "write"):
            lock.unlink(missing_ok=True)
            path.touch()
            _cut_half_ask(path)
        super().__init__(str(path), lock_obj=JournalFileOpenLock(str(path)))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write entries and wait until they are on disk.

        Raises:
            StorageError: The disk is full or fails.
        """
        with storage_errors(self._path, "write"):
            super().append_logs(logs)


def _cut_half_ask(path: Path) -> None:
    """Cut the file where its last ask began, if that ask did not end."""
    begun = None
    position = 0
    for entry, end in _read_entries(path):
        if _begins_ask(entry):
            begun = position
        elif _ends_ask(entry):
            begun = None
        position = end
    os.truncate(path, position if begun is None else begun)


def _read_entries(path: Path) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Give each entry with the position after its line; a torn last line is passed over."""
    position = 0
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            return
        position += len(line)
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "op_code" not in entry:
            raise StorageError(
                f"{path} is damaged: line {number} is no entry of a study",
                hint="remove the file and go on with --resume: the same plans are asked for again, "
                "and what was measured is kept",
            )
        yield entry, position


def _begins_ask(entry: Mapping[str, Any]) -> bool:
    """Whether a trial starts to run: a new one, or one that waited in the queue."""
    if entry["op_code"] == JournalOperation.CREATE_TRIAL:
        return "state" not in entry
    return _sets_state(entry, TrialState.RUNNING)


def _ends_ask(entry: Mapping[str, Any]) -> bool:
    """Whether a trial got its last attribute, or failed as a duplicate."""
    return ROUND in entry.get("user_attr", {}) or _sets_state(entry, TrialState.FAIL)


def _sets_state(entry: Mapping[str, Any], state: TrialState) -> bool:
    return (
        entry["op_code"] == JournalOperation.SET_TRIAL_STATE_VALUES
        and entry.get("state") == state.value
    )
