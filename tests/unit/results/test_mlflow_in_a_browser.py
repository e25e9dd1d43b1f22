"""What a reader sees of a search in MLflow's UI: in headless Chromium, where there is one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from autoquant.results.findings import Findings
from autoquant.results.mlflow.store import TrackingSettings, open_recorder
from autoquant.results.mlflow.ui import experiment_pages, start_ui
from autoquant.results.mlflow.view import Pages
from tests.browser import dom_of, needs_chromium
from tests.unit.results.synthetic import FACTS

pytestmark = [needs_chromium, pytest.mark.slow]

OPTIONS = ("--window-size=2400,1400", "--virtual-time-budget=90000")


@pytest.fixture(scope="module")
def pages(findings: Findings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    settings = {**FACTS.settings, "objectives": "output_error, latency"}
    facts = replace(FACTS, settings=settings)
    recorder = open_recorder(TrackingSettings(uri, "digits"), facts, "", {})
    for item in findings.candidates:
        recorder.candidate(item)
    assert recorder.finish(findings) == ()
    ui = start_ui(uri)
    try:
        yield experiment_pages(ui.url, uri, "digits")
    finally:
        ui.close()


def columns(dom: str) -> list[str]:
    """Ids of the list's columns in the order in which they stand on the page."""
    heads = re.findall(r'<div class="ag-header-cell [^>]*>', dom)
    found = [
        (int(place[1]), name[1])
        for head in heads
        if (name := re.search(r'col-id="((?:metrics|tags)\.[^"]*)"', head))
        and (place := re.search(r"left: (\d+)px", head))
    ]
    return [name for _, name in sorted(found)]


def speedups(dom: str) -> list[float]:
    """The list's speed-ups from top to bottom."""
    marks = re.findall(
        r'translateY\((\d+)px\)|id="cell-metrics\.`speedup`-\d+" class="ag-cell-value">([\d.]+)',
        dom,
    )
    found, height = {}, 0
    for place, value in marks:
        if place:
            height = int(place)
        else:
            found[height] = float(value)
    return [found[height] for height in sorted(found)]


def test_the_list_of_runs_opens_on_speed_and_accuracy_fastest_first(
    pages: Pages, findings: Findings, tmp_path: Path
) -> None:
    dom = dom_of(pages.runs, tmp_path / "chromium", *OPTIONS)
    shown = columns(dom)
    assert shown[:3] == ["tags.`frontier`", "metrics.`speedup`", "metrics.`accuracy_drop`"]
    found = speedups(dom)
    known = [
        item.value("speedup") for item in findings.candidates if "speedup" in item.measurements
    ]
    assert len(found) > 5
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(max(known), abs=0.01)


def test_comparing_runs_opens_on_speed_against_accuracy(pages: Pages, tmp_path: Path) -> None:
    assert pages.charts is not None
    dom = dom_of(pages.charts, tmp_path / "chromium", *OPTIONS)
    assert re.findall(r">(Speed and accuracy)<", dom)
    axes = re.findall(r'class="([xy])title"[^>]*data-unformatted="([^"]+)"', dom)
    assert axes[:2] == [("x", "speedup"), ("y", "accuracy_drop")]
    assert axes[2:] == [("x", "speedup"), ("y", "sqnr_db")]
