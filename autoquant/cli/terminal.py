"""Progress bars and lines on the terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from autoquant.core.measurement import Candidate
from autoquant.core.progress import Advance


class Terminal:
    """A `Progress` that draws with rich; on a pipe it prints one line for each stage.

    Args:
        console: Where to draw.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage: TerminalStage | None = None

    def stage(self, title: str, total: int | None) -> TerminalStage:
        """Begin a stage, with a bar where its length is known."""
        self._stage = TerminalStage(self._console, title, total)
        return self._stage

    def note(self, text: str) -> None:
        """Print one line, unbroken: it may hold a path."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def candidate(self, candidate: Candidate) -> None:
        """Show the latest candidate beside the bar; say why one failed."""
        if candidate.failure is not None:
            self.note(f"candidate {candidate.number} failed: {candidate.failure.reason}")
        elif self._stage is not None:
            self._stage.describe(_summary(candidate))


class TerminalStage:
    """One stage's bar."""

    def __init__(self, console: Console, title: str, total: int | None) -> None:
        self._console = console
        self._title = title
        count = [MofNCompleteColumn(), TimeRemainingColumn()] if total else []
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *([BarColumn(bar_width=24)] if total else []),
            *count,
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[latest]}"),
            console=console,
            transient=not console.is_terminal,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(title, total=total, latest="")

    def __enter__(self) -> Advance:
        if not self._console.is_terminal:
            self._console.print(f"{self._title} ...", highlight=False)
        self._progress.start()
        return lambda steps: self._progress.advance(self._task, steps)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            task = self._progress.tasks[0]
            self._progress.update(self._task, total=task.total or 1, completed=task.total or 1)
        self._progress.stop()

    def describe(self, text: str) -> None:
        """Show a text beside the bar."""
        self._progress.update(self._task, latest=text)


def _summary(candidate: Candidate) -> str:
    """The latest candidate in a few words."""
    found = candidate.measurements
    parts = [f"#{candidate.number}"]
    if "sqnr_db" in found:
        parts.append(f"{found['sqnr_db'].value:.1f} dB")
    if "speedup" in found:
        parts.append(f"{found['speedup'].value:.2f}x{' busy' if found['speedup'].busy else ''}")
    return " ".join(parts)
