"""The result folder of a running search: locked, appended to, and written file by file."""

from __future__ import annotations

import shutil
from pathlib import Path

from autoquant.core.build import BuildSettings
from autoquant.core.frontier import Frontier
from autoquant.core.history import Ask, Past, StopReason
from autoquant.core.measurement import Candidate
from autoquant.core.os_errors import storage_errors
from autoquant.core.plan import Plan
from autoquant.errors import StorageError
from autoquant.results import files
from autoquant.results.forms import BUILD, Form, Value
from autoquant.results.frontier_file import write_frontier
from autoquant.results.history import History, read_history, read_past
from autoquant.results.lock import FolderLock
from autoquant.results.manifest import seal, unseal
from autoquant.results.storage import write_text
from autoquant.results.trust import sign
from autoquant.results.wording import candidates_text

FREE_BYTES_NEEDED = 64 * 2**20
"""Below this a search does not start: report, state dicts and MLflow's artifacts need it."""


class ResultFolder:
    """The folder of one search, for the controller's life. Made by `create` or `resume`.

    It is a `Recorder` and an `AskLog`: these append to the history. Close it.
    """

    def __init__(self, path: Path, lock: FolderLock) -> None:
        self.path = path
        self._lock = lock
        self._equalised = ""
        self._history = History(path / files.HISTORY)

    @classmethod
    def create(cls, path: Path, *, free_bytes: int = FREE_BYTES_NEEDED) -> ResultFolder:
        """Open a folder for a new search."""
        lock = _lock(path, free_bytes)
        try:
            count = len(read_history(path / files.HISTORY))
            if count or (path / files.FRONTIER).exists():
                raise StorageError(
                    f"{path} already holds a search of {candidates_text(count)}",
                    hint="--resume (Python: resume=True) continues it; or choose another output",
                )
            _drop_leftovers(path)
            return cls(path, lock)
        except BaseException:
            lock.close()
            raise

    @classmethod
    def resume(cls, path: Path, *, free_bytes: int = FREE_BYTES_NEEDED) -> ResultFolder:
        """Open the folder of an interrupted search."""
        if not ((path / files.HISTORY).exists() or (path / files.FACTS).exists()):
            raise StorageError(
                f"{path} holds no search to resume", hint="start one without --resume"
            )
        lock = _lock(path, free_bytes)
        try:
            unseal(path)
            return cls(path, lock)
        except BaseException:
            lock.close()
            raise

    def close(self) -> None:
        """Close the history and give the lock back; may be called again."""
        self._history.close()
        self._lock.close()

    def candidate(self, candidate: Candidate) -> None:
        """Append a candidate to the history; it is on disk when this returns.

        A later record of the same number supersedes the earlier one.
        """
        self._history.candidate(candidate)

    def asked(self, ask: Ask) -> None:
        """Append an ask to the history; it is on disk when the next record is."""
        self._history.asked(ask)

    def told(self, number: int) -> None:
        """Append to the history that a round was told; it is on disk when this returns."""
        self._history.told(number)

    def past(self) -> Past:
        """Read the history."""
        return read_past(self.path / files.HISTORY)

    def write_job(self, job_text: str) -> None:
        """Keep what is searched: `job.yaml`."""
        write_text(self.path / files.JOB, job_text)
        sign(self.path)

    def write(self, form: Form[Value], value: Value) -> None:
        """Keep a value in the file of its form."""
        form.save(self.path, value)

    def write_build(self, settings: BuildSettings) -> None:
        """Keep what decides how plans are built, and of which rescaled model they are."""
        self._equalised = settings.equalisation.weights
        self.write(BUILD, settings)

    def write_frontier(self, frontier: Frontier, stopped: StopReason | None = None) -> None:
        """Keep the frontier, `frontier.json`, and its plans, `plans/<number>.json`."""
        for member in frontier.members:
            self.write_plan(member.number, member.plan)
        write_frontier(self.path / files.FRONTIER, frontier, stopped)

    def write_standing(self, frontier: Frontier) -> None:
        """Keep the frontier of a search that goes on: `frontier.json` alone."""
        write_frontier(self.path / files.FRONTIER, frontier)

    def write_plan(self, number: int, plan: Plan) -> Path:
        """Keep one plan as `load_plan` reads it; gives its path."""
        path = files.plan_path(self.path, number)
        write_text(path, plan.file_text(self._equalised))
        return path

    def write_report(self, html: str) -> Path:
        """Keep the report: `report.html`; gives its path."""
        path = self.path / files.REPORT
        write_text(path, html)
        return path

    def seal(self) -> None:
        """Write the checksums of all files; nothing is written after that."""
        seal(self.path)


def _lock(path: Path, free_bytes: int) -> FolderLock:
    """Make the folder, lock it, and see that its disk has space."""
    with storage_errors(path, "write to"):
        path.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path).free
    if free < free_bytes:
        raise StorageError(
            f"the disk of {path} has {free / 2**20:.0f} MiB left; a search needs "
            f"{free_bytes / 2**20:.0f}",
            hint="free space on that disk, or choose an output on another one",
        )
    return FolderLock(path / files.LOCK)


def _drop_leftovers(path: Path) -> None:
    """Remove what a search left that stopped before its first candidate; only it may take it up."""
    with storage_errors(path, "write to"):
        for name in files.LEFTOVERS:
            (path / name).unlink(missing_ok=True)
