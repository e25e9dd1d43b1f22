from __future__ import annotations

import io
import math
from dataclasses import replace

import pytest
from rich.console import Console

from autoquant.core.measurement import Candidate, Kind, Measurement
from autoquant.core.precision import Scheme
from autoquant.results.findings import Findings
from autoquant.results.frame import candidates_frame
from autoquant.results.summary import summarize
from autoquant.results.table import candidate_table, to_markdown, to_rich
from tests.unit.results.synthetic import BASELINE, make_candidate

PLAN = {"conv": Scheme.INT8, "fc": Scheme.FP32, "head": Scheme.INT8}


def cell(candidates: list[Candidate], title: str, row: int = 1) -> str:
    table = candidate_table(candidates, BASELINE)
    titles = [column.title for column in table.columns]
    return table.rows[row][titles.index(title)]


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("#", "4"),
        ("accuracy, %", "97.99"),
        ("drop, points", "0.22 ± 0.24"),
        ("held-out drop, points", "0.50 ± 0.30"),
        ("SQNR, dB", "30.0 ± 0.3"),
        ("speedup", "2.50 ± 0.04"),
        ("size", "538 KiB (50%)"),
        ("ops", "2 int8, 1 fp32"),
        ("from", "tpe"),
    ],
)
def test_a_candidate_is_told_in_the_units_of_people(title: str, text: str) -> None:
    assert cell([make_candidate(4, PLAN, drop=0.0022, heldout=0.005)], title) == text


def test_the_float_model_is_the_first_row() -> None:
    table = candidate_table([make_candidate(4, PLAN)], BASELINE)
    assert table.rows[0][:3] == ("fp32", "98.21", "0")


def test_a_metric_outside_0_to_1_is_shown_as_it_is() -> None:
    baseline = {"accuracy": Measurement(-0.31, Kind.MEASURED)}
    item = Candidate(
        0,
        make_candidate(0, PLAN).plan,
        "tpe",
        {
            "accuracy": Measurement(-0.35, Kind.MEASURED),
            "accuracy_drop": Measurement(0.04, Kind.MEASURED, stderr=0.01),
        },
    )
    table = candidate_table([item], baseline)
    assert table.rows[1][1:3] == ("-0.35", "0.0400 ± 0.0100")


@pytest.mark.parametrize(
    ("metric", "drop"),
    [
        ("accuracy", "0.22 ± 0.24"),
        ("delay (s)", "0.0022 ± 0.0024"),
        ("delay (s, lower is better)", "0.0022 ± 0.0024"),
        ("error (lower is better)", "0.0022 ± 0.0024"),
    ],
    ids=["share", "unit", "unit of a loss", "loss"],
)
def test_a_loss_and_what_has_a_unit_is_no_share(metric: str, drop: str) -> None:
    item = make_candidate(4, PLAN, drop=0.0022)
    table = candidate_table([item], BASELINE, metric=metric)
    titles = [column.title for column in table.columns]
    place = next(place for place, title in enumerate(titles) if title.startswith("drop"))
    assert table.rows[1][place] == drop
    assert titles[place] == ("drop, points" if metric == "accuracy" else "drop, metric's unit")


def test_a_small_drop_of_a_loss_does_not_read_as_none(findings: Findings) -> None:
    """Four digits everywhere: two would call 0.0022 seconds nothing."""
    facts = replace(findings.facts, metric="delay (s, lower is better)")
    said = " ".join(summarize(replace(findings, facts=facts)))
    assert "points" not in said
    assert "allowed drop of 0.0100 metric's unit" in said


def test_one_kind_stands_in_the_head_and_several_in_the_cells() -> None:
    real = make_candidate(0, PLAN)
    emulated = make_candidate(1, PLAN, kind=Kind.EMULATED, speedup=None)
    alone = candidate_table([real], BASELINE)
    both = candidate_table([real, emulated], BASELINE)
    heads = {column.title: column.kind for column in both.columns}
    assert {column.title: column.kind for column in alone.columns}["drop, points"] == "measured"
    assert heads["drop, points"] == "measured, emulated"
    assert heads["size"] == "estimated"
    assert cell([real, emulated], "drop, points", row=2) == "0.20 ± 0.24 emulated"
    assert cell([real, emulated], "speedup", row=2) == "-"
    assert any(note.startswith("emulated:") for note in both.notes)
    assert not any(note.startswith("emulated:") for note in alone.notes)


def test_columns_that_nobody_has_are_left_out() -> None:
    titles = [c.title for c in candidate_table([make_candidate(0, PLAN)], BASELINE).columns]
    assert "held-out drop, points" not in titles
    assert "bit operations" not in titles


def test_markdown_keeps_its_columns_whatever_an_origin_holds() -> None:
    text = to_markdown(candidate_table([make_candidate(0, PLAN, origin="a|b\nc")], BASELINE))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in rows}) == 1
    assert "a\\|b c" in text


def test_the_terminal_shows_every_cell_and_takes_no_markup_from_names() -> None:
    shown = Console(width=200, record=True, file=io.StringIO())
    shown.print(to_rich(candidate_table([make_candidate(3, PLAN, origin="[red]x")], BASELINE)))
    text = shown.export_text()
    assert "[red]x" in text
    assert "2.50 ± 0.04" in text


def test_the_frame_has_a_column_for_each_measurement_its_error_and_its_kind() -> None:
    emulated = make_candidate(1, PLAN, kind=Kind.EMULATED, speedup=None, heldout=0.01)
    frame = candidates_frame([make_candidate(0, PLAN), emulated])
    assert list(frame.columns[:8]) == [
        *("number", "digest", "origin", "failure", "stopped"),
        *("accuracy", "accuracy_stderr", "accuracy_kind"),
    ]
    assert frame["speedup"].tolist()[0] == 2.5
    assert math.isnan(frame["speedup"].tolist()[1])
    assert frame["accuracy_drop_kind"].tolist() == ["measured", "emulated"]
    assert frame["heldout_accuracy_drop"].tolist()[1] == 0.01
    assert frame["digest"].tolist()[0] == make_candidate(0, PLAN).digest


def test_a_frame_of_nothing_still_has_its_first_columns() -> None:
    first = ["number", "digest", "origin", "failure", "stopped"]
    assert list(candidates_frame([]).columns) == first


def test_a_failure_is_a_row_of_the_frame(findings: Findings) -> None:
    frame = candidates_frame(findings.candidates)
    assert frame["failure"].tolist()[11] == "outputs hold NaN or infinity on batch 2"
    assert len(frame) == len(findings.candidates)


def test_the_summary_names_the_fastest_within_the_limit(findings: Findings) -> None:
    first, second, third, *_ = summarize(findings)
    assert first == f"{len(findings.frontier)} of 57 candidates are worth choosing between."
    assert second.startswith("The fastest within the allowed drop of 1.00 points is #1: 24 int8;")
    assert "2.94 ± 0.04 times the speed of fp32 (measured)" in second
    assert third == "On held-out data its drop is 0.32 ± 0.30 points, within the limit (measured)."
    assert summarize(findings)[3].startswith("1 candidate failed")
