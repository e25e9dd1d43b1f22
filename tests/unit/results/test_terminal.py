"""Progress: nothing is silent for long, and nothing tears what is drawn."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.progress import Silent, Standing
from autoquant.results.terminal import Terminal, shown, standing_table, standing_text

LONGEST_WAIT_S = 60.0


def candidate(number: int, speedup: float) -> Candidate:
    return Candidate(
        number,
        Plan.of({f"layer{place}": Scheme.INT8 for place in range(9)}),
        "seed:uniform-int8",
        {
            "accuracy_drop": Measurement(0.002, Kind.MEASURED, stderr=0.001),
            "accuracy": Measurement(0.9, Kind.MEASURED),
            "speedup": Measurement(speedup, Kind.MEASURED),
        },
    )


STANDING = Standing(
    (("best within the limit", candidate(4, 2.0)), ("fastest", candidate(7, 2.5))), 8, 64, 90.0
)


def test_the_standing_of_a_loss_is_no_share() -> None:
    said = standing_text(replace(STANDING, metric="delay (s, lower is better)"))
    assert "drop 0.0020 ± 0.0010" in said
    assert "drop 0.20 ± 0.10" in standing_text(STANDING)


def until(file: io.StringIO, text: str) -> None:
    """Wait until something was printed."""
    begun = time.monotonic()
    while text not in file.getvalue():
        assert time.monotonic() - begun < LONGEST_WAIT_S, file.getvalue()
        time.sleep(0.005)


def test_a_long_stage_says_on_a_pipe_how_far_it_is() -> None:
    file = io.StringIO()
    terminal = Terminal(Console(file=file, width=160), quiet_s=0.01)
    with terminal.stage("measuring", 10) as advance:
        advance(3)
        until(file, "measuring: 3 of 10, ")
        terminal.candidate(candidate(4, 2.0))
        until(file, "left; #4 2.00x")
    assert file.getvalue().startswith("measuring ...\n")


def test_a_stage_within_another_speaks_for_both() -> None:
    file = io.StringIO()
    terminal = Terminal(Console(file=file, width=160), quiet_s=0.01)
    with terminal.stage("outer", None), terminal.stage("inner", None):
        until(file, "inner: 0 s")
    assert "outer: " not in file.getvalue().partition("inner ...")[2]


def test_the_standing_is_a_line_on_a_pipe_and_a_table_elsewhere() -> None:
    file = io.StringIO()
    Terminal(Console(file=file, width=160)).standing(STANDING)
    assert file.getvalue() == (
        "8 of at most 64 candidates: best within the limit #4 2.00x, drop 0.20 ± 0.10; "
        "fastest #7 2.50x, drop 0.20 ± 0.10; at most 90 s left\n"
    )
    narrow = Console(file=(drawn := io.StringIO()), width=80)
    narrow.print(standing_table(STANDING))
    lines = drawn.getvalue().splitlines()
    assert len(lines) == 4
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert standing_text(STANDING) in file.getvalue()


def test_what_others_print_and_log_stands_above_the_live_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setattr(sys, "__stderr__", file)
    logger = logging.getLogger("a library")
    handler = logging.StreamHandler(file)
    logger.addHandler(handler)
    console = Console(file=file, force_terminal=True, width=80)
    terminal = Terminal(console)
    terminal.standing(STANDING)
    try:
        with terminal.stage("measuring", 2) as advance:
            advance(1)
            logger.warning("something odd")
            print("printed", file=sys.stderr)
        assert handler.stream is file
    finally:
        logger.removeHandler(handler)
    text = file.getvalue()
    for line in ("something odd", "printed"):
        assert re.search(rf"(\n|\r|\x1b\[2K|\x1b\[\?25l){line}\n", text), text
    assert text.rindex("measuring") > text.index("printed\n"), "it is drawn again below"
    assert "best within the limit" in text


def test_progress_is_shown_unless_it_is_silenced() -> None:
    own = Silent()
    assert isinstance(shown(None), Terminal)
    assert isinstance(shown(True), Terminal)
    assert isinstance(shown(False), Silent)
    assert shown(own) is own
