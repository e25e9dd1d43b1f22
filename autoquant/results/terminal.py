"""Progress for people: a live table in a terminal or a notebook, plain lines on a pipe."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from autoquant.core import progress as told
from autoquant.core.measurement import Candidate
from autoquant.core.progress import Advance, Silent, Standing
from autoquant.results.notebook_live import drawn_in_notebook
from autoquant.results.wording import ScoreUnit, counts_text, drop_text, or_busy, score_unit

QUIET_S = 10.0
"""Nothing is silent for longer than this."""

_WIDTH_OF_LOGS = 160


def shown(progress: told.Progress | bool | None) -> told.Progress:
    """What shows the progress of a call from Python.

    Args:
        progress: None or True: standard error, as the command line does; False: nothing; else the
            user's own.
    """
    if progress is None or progress is True:
        return to_stderr()
    return Silent() if progress is False else progress


def to_stderr() -> Terminal:
    """Progress on standard error as it is now: what redirects it later does not silence this."""
    is_wide = not sys.stderr.isatty()
    console = Console(file=sys.stderr, emoji=False, width=_WIDTH_OF_LOGS if is_wide else None)
    return Terminal(console)


@dataclass(slots=True)
class _Stage:
    """A stage that is running."""

    title: str
    total: int | None
    begun: float
    done: int = 0
    latest: str = ""


@dataclass(slots=True)
class _Said:
    """What was printed last, and when."""

    at: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Terminal:
    """A `Progress` that draws with rich.

    In a terminal and in a notebook the stage at hand and the standing of the search are drawn anew
    in one place; a line stays of each stage that took its time. Elsewhere the same are plain lines:
    one when a stage begins, and one whenever nothing was said for a while.

    Args:
        console: Where to draw.
        quiet_s: The longest silence on a pipe, in seconds.
    """

    def __init__(self, console: Console, quiet_s: float = QUIET_S) -> None:
        self._console = console
        self._quiet_s = quiet_s
        self._is_live = console.is_terminal or console.is_jupyter
        self._stages: list[_Stage] = []
        self._standing: Standing | None = None
        self._said = _Said(time.monotonic())

    def stage(self, title: str, total: int | None) -> AbstractContextManager[Advance]:
        """Begin a stage, with a bar where its length is known."""
        return self._live(title, total) if self._is_live else self._plain(title, total)

    def note(self, text: str) -> None:
        """Print one line, unbroken: it may hold a path."""
        self._say(text)

    def candidate(self, candidate: Candidate) -> None:
        """Keep the latest candidate beside the stage; say why one failed."""
        if candidate.failure is not None:
            self.note(f"candidate {candidate.number} failed: {candidate.failure.reason}")
        elif self._stages:
            self._stages[-1].latest = _summary(candidate)

    def standing(self, standing: Standing) -> None:
        """Show where the search stands."""
        self._standing = standing
        if not self._is_live:
            self._say(standing_text(standing))

    def _say(self, text: str) -> None:
        with self._said.lock:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._said.at = time.monotonic()

    @contextmanager
    def _plain(self, title: str, total: int | None) -> Iterator[Advance]:
        stage = _Stage(title, total, time.monotonic())
        self._say(f"{title} ...")
        self._stages.append(stage)
        ended = threading.Event()
        beat = threading.Thread(target=self._beat, args=(stage, ended), daemon=True)
        beat.start()
        try:
            yield lambda steps: _advance(stage, steps)
        finally:
            ended.set()
            beat.join()
            self._stages.remove(stage)

    def _beat(self, stage: _Stage, ended: threading.Event) -> None:
        """Say how far a stage is whenever nothing else was said."""
        while not ended.wait(max(self._said.at + self._quiet_s - time.monotonic(), 0.0)):
            silent = time.monotonic() - self._said.at
            if silent >= self._quiet_s and self._stages[-1] is stage:
                self._say(_stage_text(stage))
            elif silent >= self._quiet_s:
                ended.wait(self._quiet_s)  # a stage within this one speaks

    @contextmanager
    def _live(self, title: str, total: int | None) -> Iterator[Advance]:
        stage = _Stage(title, total, time.monotonic())
        if self._stages:  # within another stage, whose place on the screen it takes a while
            self._stages.append(stage)
            try:
                yield lambda steps: _advance(stage, steps)
            finally:
                self._stages.remove(stage)
            return
        self._stages.append(stage)
        bar = _bar(self._console, stage)
        task = bar.add_task(title, total=total, latest="")

        def draw() -> RenderableType:
            now = self._stages[-1] if self._stages else stage
            bar.update(task, completed=stage.done, latest=now.latest, description=now.title)
            return Group(bar, *([standing_table(self._standing)] if self._standing else []))

        try:
            with self._drawing(draw):
                yield lambda steps: _advance(stage, steps)
        finally:
            self._stages.remove(stage)
        self._say(f"{title}: {time.monotonic() - stage.begun:.0f} s")

    @contextmanager
    def _drawing(self, draw: Callable[[], RenderableType]) -> Iterator[None]:
        """Draw anew in one place, as long as this lasts."""
        if self._console.is_jupyter:
            with drawn_in_notebook(draw):
                yield
            return
        live = Live(
            get_renderable=draw, console=self._console, transient=True, refresh_per_second=4
        )
        with live, _logs_above():
            yield


def standing_table(standing: Standing) -> Table:
    """The standing as a table of a few lines."""
    unit = _unit(standing)
    table = Table(box=None, pad_edge=False)
    for head in ("", "#", "speedup", f"drop, {unit.drop_unit}", "ops"):
        is_number = head not in ("", "ops")
        table.add_column(head, justify="right" if is_number else "left", no_wrap=not is_number)
    for name, item in standing.rows:
        cells = (name, str(item.number), _speed(item), _drop(item, unit), counts_text(item.plan))
        table.add_row(*(Text(cell, overflow="ellipsis", no_wrap=True) for cell in cells))
    table.caption = f"{_done(standing)}{_left(standing)}"
    table.caption_justify = "left"
    return table


def standing_text(standing: Standing) -> str:
    """The standing as one line."""
    unit = _unit(standing)
    rows = (
        f"{name} #{item.number} {_speed(item)}, drop {_drop(item, unit)}"
        for name, item in standing.rows
    )
    return f"{_done(standing)}: {'; '.join(rows)}{_left(standing)}"


def _done(standing: Standing) -> str:
    of_most = "" if standing.most is None else f" of at most {standing.most}"
    return f"{standing.done}{of_most} candidates"


def _left(standing: Standing) -> str:
    return "" if standing.left_s is None else f"; at most {_time_text(standing.left_s)} left"


def _unit(standing: Standing) -> ScoreUnit:
    return score_unit((item.measurements for _, item in standing.rows), standing.metric)


def _speed(candidate: Candidate) -> str:
    found = candidate.measurements
    if "speedup" in found:
        return or_busy(found["speedup"], f"{found['speedup'].value:.2f}x")
    cost = next((name for name in ("bops_ratio", "size_bytes") if name in found), None)
    return "-" if cost is None else f"{found[cost].value:.3g}"


def _drop(candidate: Candidate, unit: ScoreUnit) -> str:
    drop = candidate.measurements.get("accuracy_drop")
    return "-" if drop is None else drop_text(drop, unit)


def _stage_text(stage: _Stage) -> str:
    """How far a stage is."""
    spent = time.monotonic() - stage.begun
    of = "" if stage.total is None else f"{stage.done} of {stage.total}, "
    left = ""
    if stage.total and 0 < stage.done < stage.total:
        rest = spent * (stage.total - stage.done) / stage.done
        left = f", about {_time_text(rest)} left"
    latest = f"; {stage.latest}" if stage.latest else ""
    return f"{stage.title}: {of}{spent:.0f} s{left}{latest}"


def _time_text(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _advance(stage: _Stage, steps: int) -> None:
    stage.done += steps


def _bar(console: Console, stage: _Stage) -> Progress:
    count = [BarColumn(bar_width=16), MofNCompleteColumn(), TimeRemainingColumn()]
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *(count if stage.total else []),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[latest]}"),
        console=console,
        auto_refresh=False,
    )


@contextmanager
def _logs_above() -> Iterator[None]:
    """Let loggers that hold a standard stream print above what is drawn.

    rich takes what is printed to `sys.stderr`; a handler that was made earlier holds the stream.
    """
    streams = {sys.__stderr__: sys.stderr, sys.__stdout__: sys.stdout}
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {
        handler: handler.stream
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream in streams
    }
    for handler, stream in handlers.items():
        handler.setStream(streams[stream])
    try:
        yield
    finally:
        for handler, stream in handlers.items():
            handler.setStream(stream)


def _summary(candidate: Candidate) -> str:
    """The latest candidate in a few words."""
    found = candidate.measurements
    parts = [f"#{candidate.number}"]
    if "sqnr_db" in found:
        parts.append(f"{found['sqnr_db'].value:.1f} dB")
    if "speedup" in found:
        parts.append(_speed(candidate))
    return " ".join(parts)
