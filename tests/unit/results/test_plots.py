from __future__ import annotations

from dataclasses import replace

import plotly.graph_objects as go
import pytest

from autoquant.core.frontier import find_frontier
from autoquant.core.measurement import Kind
from autoquant.core.objectives import Objective
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part
from autoquant.results.axes import window
from autoquant.results.colours import SCHEME_CODES, SCHEME_COLOURS
from autoquant.results.findings import Findings
from autoquant.results.plots import pareto_figure, sensitivity_figure
from autoquant.results.plots.style import KIND_SYMBOLS
from tests.unit.results.synthetic import BASELINE, make_candidate


def traces(figure: go.Figure, name: str) -> list[go.Scatter]:
    return [trace for trace in figure.data if trace.name == name]


def with_candidates(findings: Findings, *candidates: object) -> Findings:
    listed = tuple(candidates)
    frontier = find_frontier(listed, BASELINE, findings.frontier.objectives)
    return replace(findings, candidates=listed, frontier=frontier)


def test_the_frontier_is_drawn_in_points_of_accuracy_over_speed(findings: Findings) -> None:
    accuracy, sqnr = traces(pareto_figure(findings), "frontier (measured)")
    members = sorted(findings.frontier, key=lambda item: item.value("speedup"))
    assert list(accuracy.x) == [item.value("speedup") for item in members]
    assert list(accuracy.y) == [item.value("accuracy_drop") * -100 for item in members]
    assert list(sqnr.y) == [item.value("sqnr_db") for item in members]
    assert list(accuracy.error_y.array) == pytest.approx([0.24] * len(members))


def test_every_measured_candidate_is_in_the_picture_once(findings: Findings) -> None:
    figure = pareto_figure(findings)
    shown = sum(
        len(trace.x)
        for trace in figure.data
        if trace.mode == "markers" and trace.xaxis == "x" and "fp32" not in trace.name
    )
    drawable = [c for c in findings.candidates if {"speedup", "sqnr_db"} <= set(c.measurements)]
    assert shown == len(drawable)


def test_axes_name_the_unit_and_the_kind(findings: Findings) -> None:
    layout = pareto_figure(findings).layout
    assert layout.xaxis.title.text == "Speedup over fp32, times (measured)"
    assert layout.yaxis.title.text == "Accuracy change against fp32, points (measured)"
    assert layout.yaxis2.title.text == "Output SQNR against fp32, dB (measured)"


def test_a_metric_of_a_long_name_is_named_whole_in_lines_that_fit(findings: Findings) -> None:
    name = "mean_absolute_deviation_of_the_spectrogram_" * 2
    facts = replace(findings.facts, metric=name)
    lines = pareto_figure(replace(findings, facts=facts)).layout.yaxis.title.text.split("<br>")
    assert max(map(len, lines)) <= 52, "480 pixels of height hold no more"
    assert name in "".join(lines)


def test_hovering_tells_the_plan_and_what_is_out_of_line(findings: Findings) -> None:
    item = make_candidate(7, {"a": Scheme.INT8, "b": Scheme.INT8, "c<i>": Scheme.FP32})
    (accuracy, _) = traces(pareto_figure(with_candidates(findings, item)), "frontier (measured)")
    (text,) = accuracy.hovertext
    assert "<b>#7</b>  tpe" in text
    assert "2 int8, 1 fp32" in text
    assert "not int8:<br>  c&lt;i&gt;: fp32" in text


def test_kinds_have_symbols_of_their_own(findings: Findings) -> None:
    real = make_candidate(0, {"a": Scheme.INT8}, speedup=None)
    emulated = make_candidate(1, {"a": Scheme.INT16}, sqnr=60, kind=Kind.EMULATED, speedup=None)
    figure = pareto_figure(
        with_candidates(
            replace(
                findings,
                frontier=replace(
                    findings.frontier, objectives=(Objective.OUTPUT_ERROR, Objective.SIZE)
                ),
            ),
            real,
            emulated,
        )
    )
    drawn = {
        trace.name: trace.marker.symbol[0]
        for trace in figure.data
        if trace.mode == "markers" and ("frontier" in trace.name or "other" in trace.name)
    }
    assert set(drawn.values()) == {KIND_SYMBOLS[Kind.MEASURED], KIND_SYMBOLS[Kind.EMULATED]}
    assert all(KIND_SYMBOLS[Kind(name.split("(")[1][:-1])] == drawn[name] for name in drawn)
    assert figure.layout.xaxis.title.text == "Size, % of fp32 (estimated)"
    assert figure.layout.xaxis.autorange == "reversed"


def test_a_time_of_a_busy_machine_is_hollow_and_said(findings: Findings) -> None:
    quiet = make_candidate(0, {"a": Scheme.INT8})
    speedup = replace(quiet.measurements["speedup"], busy=True)
    busy = replace(quiet, measurements={**quiet.measurements, "speedup": speedup})
    figure = pareto_figure(with_candidates(findings, busy))
    symbols = [trace.marker.symbol for trace in figure.data if trace.name == "frontier (measured)"]
    assert symbols == [(f"{KIND_SYMBOLS[Kind.MEASURED]}-open",)] * 2
    assert figure.layout.xaxis.title.text.endswith("hollow: the machine was busy")
    (text,) = [item.hovertext[0] for item in figure.data if item.hovertext][:1]
    assert "2.50 (2.42 to 2.58) busy measured" in text


def test_uniform_plans_are_labelled_once_each(findings: Findings) -> None:
    labels = [item.text for item in pareto_figure(findings).layout.annotations if item.xref == "x"]
    assert {"all fp32", "all int8", "all bf16"} <= set(labels)
    assert len(labels) == len(set(labels))


def test_the_allowed_drop_is_drawn(findings: Findings) -> None:
    (line,) = pareto_figure(findings).layout.shapes
    assert line.y0 == line.y1 == -1.0


def test_a_search_without_candidates_says_so(findings: Findings) -> None:
    empty = with_candidates(findings)
    assert len(pareto_figure(empty).layout.annotations) == 1


def test_the_window_leaves_out_what_would_flatten_the_rest() -> None:
    values = [0.0, -0.2, -0.4, -0.2, -60.0]
    found = window(values, [0.0, -0.4])
    assert found.outside == 1
    assert -1.0 < found.low < -0.4


def test_the_window_never_leaves_out_what_must_be_seen() -> None:
    found = window([0.0, -0.2, -0.4, -0.2, -60.0], [-60.0])
    assert found.outside == 0
    assert found.low < -60.0


def test_exact_outputs_do_not_stretch_the_axis() -> None:
    found = window([150.0, 30.0, 40.0], [150.0, 40.0], ceiling=150.0)
    assert (found.high < 50.0, found.outside) == (True, 1)


def test_sensitivity_bars_show_weights_and_activations_apart(findings: Findings) -> None:
    table = findings.sensitivity
    assert table is not None
    figure = sensitivity_figure(table, top=5)
    weight, activation, both = figure.data[:3]
    ranked = table.ranking(Scheme.INT8)[:5]
    assert list(both.y) == [row.knob for row in ranked]
    assert list(both.x) == [row.noise * 100 for row in ranked]
    noise = {(r.knob, r.scheme, r.part): r.noise * 100 for r in table.rows}
    assert list(weight.x) == [noise[(knob, Scheme.INT8, Part.WEIGHT)] for knob in weight.y]
    assert len(activation.y) == 5
    assert list(figure.layout.yaxis.categoryarray) == [row.knob for row in ranked]


def test_a_button_for_each_scheme_shows_its_three_traces(findings: Findings) -> None:
    figure = sensitivity_figure(findings.sensitivity)
    (menu,) = figure.layout.updatemenus
    assert [button.label for button in menu.buttons] == ["int8", "int16 (w8a16)", "bf16"]
    for index, button in enumerate(menu.buttons):
        shown = button.args[0]["visible"]
        assert [i for i, seen in enumerate(shown) if seen] == [3 * index + k for k in range(3)]


def test_no_sensitivity_is_said() -> None:
    assert sensitivity_figure(None).layout.annotations[0].text == "No sensitivity was measured."


def test_every_scheme_has_a_colour_and_a_code_of_its_own() -> None:
    assert len(set(SCHEME_COLOURS.values())) == len(set(SCHEME_CODES.values())) == len(Scheme)
    assert set(SCHEME_COLOURS) == set(SCHEME_CODES) == set(Scheme)
