"""The history: a line for each ask, each record of a candidate, each round told; appended to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from autoquant.core.history import Ask, Past
from autoquant.core.json_values import value_of
from autoquant.core.measurement import Candidate
from autoquant.core.os_errors import storage_errors
from autoquant.core.plan import Plan
from autoquant.core.readback import ReadBack
from autoquant.errors import PlanError
from autoquant.results.storage import damaged

_CHUNK = 2**16
_MISTAKES = (ValueError, KeyError, TypeError, AttributeError, PlanError)

_NOTHING: Mapping[str, Any] = {"plan": {}, "executed": {}}
"""Long, and as a rule the same in all lines of a number: later lines leave them out."""


class History:
    """Appends lines to `history.jsonl`: a record is on disk before its call returns.

    With it is all that was appended before. An ask alone waits for the next record: whoever loses
    it with the machine's power asks the same again.

    Opening repairs what a crash left: a torn last line is cut off, a last line that only lacks
    its newline gets it. It reads no more than the last line.

    Args:
        path: The file; made if needed.

    Raises:
        StorageError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path, "write"):
            path.touch()
            _repair(path)
            self._file = path.open("ab")
        self._plans: dict[int, Plan] = {}
        self._executed: dict[int, ReadBack] = {}

    def candidate(self, candidate: Candidate) -> None:
        """Append a record of a candidate, without what an earlier line of its number says.

        Raises:
            StorageError: The disk is full or fails; the file is left as it was. Or it is gone.
        """
        number, document = candidate.number, candidate.to_json()
        if self._plans.get(number) == candidate.plan:
            document.pop("plan")
            if self._executed.get(number) == candidate.executed:
                document.pop("executed")
        self._append(document)
        self._plans[number] = candidate.plan
        self._executed[number] = candidate.executed

    def asked(self, ask: Ask) -> None:
        """Append an ask; it is a round's, which is not told yet."""
        self._append(ask.to_json(), is_waited_for=False)
        self._plans[ask.number] = ask.plan

    def told(self, number: int) -> None:
        """Append that the strategy was told of a round, as the lines so far have it."""
        self._append({"told": number})

    def _append(self, document: Mapping[str, Any], *, is_waited_for: bool = True) -> None:
        line = json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n"
        with storage_errors(self._path, "write"):
            length = self._path.stat().st_size  # not the open file's: that outlives its deletion
            try:
                self._file.write(line.encode("utf-8"))
                self._file.flush()
                if is_waited_for:
                    os.fsync(self._file.fileno())
            except OSError:
                self._reopen(length)
                raise

    def close(self) -> None:
        """Close the file; may be called again."""
        with suppress(OSError):
            self._file.close()

    def _reopen(self, length: int) -> None:
        """Drop what a failed write left in the buffer and in the file."""
        self.close()
        os.truncate(self._path, length)
        self._file = self._path.open("ab")


def read_history(path: Path) -> tuple[Candidate, ...]:
    """Read all candidates, by number; of several lines of one number the last counts.

    Raises:
        StorageError: The file cannot be read, or a line before the last is damaged.
    """
    return read_past(path).candidates


def read_past(path: Path) -> Past:
    """Read what was asked, told and measured.

    A torn last line, which a crash leaves, is passed over; a missing file is an empty past.
    Versions that kept their asks elsewhere wrote candidates alone: these were asked for in one
    round, and are told of when it ends.

    Raises:
        StorageError: The file cannot be read, or a line before the last is damaged.
    """
    if not path.exists():
        return Past()
    reading, mistake = _Reading(), None
    with storage_errors(path, "read"), path.open("rb") as file:
        for index, line in enumerate(file):
            if mistake is not None:
                raise damaged(path, mistake)
            try:
                reading.take(line)
            except _MISTAKES as error:
                mistake = f"line {index + 1}: {error}"
    return reading.past()


class _Reading:
    """What the lines so far say."""

    def __init__(self) -> None:
        self._asked: dict[int, Ask] = {}
        self._open: list[int] = []
        self._told: dict[int, Candidate] = {}
        self._candidates: dict[int, Candidate] = {}

    def take(self, line: bytes) -> None:
        """Read one more line."""
        data, found = _read_line(line)
        if found is None:
            for number in self._open:
                if number not in self._candidates:
                    raise ValueError(f"no line before it holds candidate {number}, which was told")
                self._told[number] = self._candidates[number]
            self._open.clear()
        elif isinstance(found, Ask):
            self._ask(found)
        else:
            candidate = self._whole(found, data)
            number = candidate.number
            if number not in self._asked:
                self._ask(Ask(number, candidate.plan, candidate.origin, round=0))
            self._candidates[number] = candidate

    def past(self) -> Past:
        """All of it."""
        known = self._candidates
        return Past(
            tuple(self._asked.values()),
            self._told,
            tuple(known[number] for number in sorted(known)),
        )

    def _ask(self, ask: Ask) -> None:
        self._asked[ask.number] = ask
        self._open.append(ask.number)

    def _whole(self, candidate: Candidate, data: Mapping[str, Any]) -> Candidate:
        """A candidate with what its line leaves out, taken from earlier ones."""
        known = self._candidates.get(candidate.number)
        before = known or self._asked.get(candidate.number)
        if "plan" not in data:
            if before is None:
                raise ValueError(f"no line before it holds the plan of candidate {data['number']}")
            candidate = replace(candidate, plan=before.plan)
        if "executed" not in data and known is not None:
            candidate = replace(candidate, executed=known.executed)
        return candidate


def _repair(path: Path) -> None:
    """End the file with a whole line."""
    start, line = _last_line(path)
    if not line:
        return
    try:
        _read_line(line)
    except _MISTAKES:
        os.truncate(path, start)
    else:
        if not line.endswith(b"\n"):
            with path.open("ab") as file:
                file.write(b"\n")


def _last_line(path: Path) -> tuple[int, bytes]:
    """Where the last line starts, and what it holds; a newline at its end included."""
    with path.open("rb") as file:
        end = start = file.seek(0, os.SEEK_END)
        tail = b""
        while start and b"\n" not in tail[:-1]:
            start = max(0, start - _CHUNK)
            file.seek(start)
            tail = file.read(end - start)
        line = tail[tail[:-1].rfind(b"\n") + 1 :]
    return end - len(line), line


def _read_line(line: bytes) -> tuple[Mapping[str, Any], Ask | Candidate | None]:
    """A line and what it holds, without what is on an earlier one; None: a round was told."""
    data = json.loads(line)
    if "told" in data:
        return data, None
    if "round" in data:
        return data, value_of(Ask, data)
    return data, Candidate.from_json({**_NOTHING, **data})
