"""What is evaluated in the process of the search."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
from torch import Tensor

import autoquant as aq
from autoquant.core.progress import Silent
from autoquant.errors import ExecutionError
from autoquant.searching.measuring.workers.alarm import Overdue, overdue_after
from tests.networks import LinearNet, seeded

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="this system has no alarms: nothing is broken off"
)


@pytest.fixture(autouse=True)
def _free_alarm() -> Iterator[None]:
    """Take the alarm from pytest's own time limit for a moment."""
    seconds, again = signal.setitimer(signal.ITIMER_REAL, 0.0)
    before = signal.signal(signal.SIGALRM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGALRM, before)
    signal.setitimer(signal.ITIMER_REAL, seconds, again)


MEASURING = "measuring the float model"


def never_end() -> None:
    """Go on whatever fails, as code that tries again does."""
    while True:
        with suppress(Exception):
            time.sleep(0.01)


class Armed(Silent):
    """Knows whether a stage was begun, from the start where none is named."""

    def __init__(self, at: str = "uniform plans") -> None:
        self.is_armed = not at
        self._at = at

    @contextmanager
    def stage(self, title: str, total: int | None) -> Iterator[Callable[[int], None]]:
        self.is_armed = self.is_armed or title.endswith(self._at)
        with super().stage(title, total) as advance:
            yield advance


def test_a_metric_that_never_ends_costs_its_candidate_alone(tmp_path: Path) -> None:
    armed = Armed()

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if armed.is_armed:
            armed.is_armed = False
            never_end()
        return (outputs.argmax(1) == targets).float()

    inputs = torch.randn(32, 16)
    result = aq.search(
        seeded(LinearNet),
        calibration=inputs,
        evaluation=(inputs, torch.arange(32) % 4),
        metric=metric,
        effort="quick",
        objectives=["accuracy", "size"],
        space={"schemes": ["int8", "fp32"]},
        backend="fbgemm",
        execution={"kind": "local", "timeout": 1.0},
        output=tmp_path,
        progress=armed,
    )
    (failed,) = [item for item in result.findings.candidates if item.failure is not None]
    assert failed.failure is not None
    assert "its quality took longer than 1 s (execution.timeout)" in failed.failure.reason
    assert result.frontier


@pytest.mark.parametrize(
    ("at", "what"),
    [("", "trying the model and the metric"), (MEASURING, MEASURING)],
    ids=["tried", "measured"],
)
def test_a_metric_that_never_ends_for_the_float_model_ends_the_search(
    at: str, what: str, tmp_path: Path
) -> None:
    armed = Armed(at)

    def metric(outputs: Tensor, targets: Tensor) -> Tensor:
        if armed.is_armed:
            never_end()
        return (outputs.argmax(1) == targets).float()

    inputs = torch.randn(32, 16)
    with pytest.raises(ExecutionError, match=f"{what} took longer than 2 s"):
        aq.search(
            seeded(LinearNet),
            calibration=inputs,
            evaluation=(inputs, torch.arange(32) % 4),
            metric=metric,
            objectives=["accuracy", "size"],
            backend="fbgemm",
            execution={"kind": "local", "timeout": 0.2},
            output=tmp_path,
            progress=armed,
        )


def test_the_alarm_is_off_again_however_it_ends() -> None:
    with pytest.raises(Overdue), overdue_after(0.05):
        never_end()
    with overdue_after(0.05):
        pass
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_an_alarm_of_somebody_else_stays_theirs() -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        with overdue_after(0.01):
            signal.raise_signal(signal.SIGALRM)
            time.sleep(0.05)
        assert rung == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)
