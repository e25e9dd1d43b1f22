from __future__ import annotations

from dataclasses import replace

from autoquant.core.findings.diagnosis import Cause, Diagnosis, Finding, Pattern
from autoquant.results.plots.diagnosis import diagnosis_figure

CHANNELS = Finding(
    cause=Cause.OUTLIER_CHANNELS,
    sites=("conv1", "conv2"),
    touching=("conv1", "conv2"),
    samples=(),
    evidence="channels <15, 6> of 16 set the range",
    step="raise them",
    before_db=2.2,
    after_db=32.9,
)
CLIPPED = replace(CHANNELS, cause=Cause.CLIPPED_RANGE, sites=("head",), after_db=6.1)
DIAGNOSIS = Diagnosis(
    pattern=Pattern.INSENSITIVE,
    samples=96,
    bad=(),
    sqnr_db=2.4,
    median_sqnr_db=2.5,
    limit_db=18.7,
    findings=(CHANNELS, CLIPPED),
    notes=(),
    variations=(),
)


def test_each_cause_has_a_bar_as_it_is_and_one_with_it_alone_mended() -> None:
    before, after = diagnosis_figure(DIAGNOSIS).data
    rows = ["1. outlier channels<br>conv1 and 1 more", "2. clipped range<br>head"]
    assert list(before.y) == list(after.y) == rows
    assert list(before.x) == [2.2, 2.2]
    assert list(after.x) == [32.9, 6.1]


def test_hovering_gives_the_evidence_and_the_kind_of_the_number() -> None:
    kernel = replace(CLIPPED, cause=Cause.KERNEL)
    _, after = diagnosis_figure(replace(DIAGNOSIS, findings=(CHANNELS, kernel))).data
    evidence = "channels &lt;15, 6&gt; of 16 set the range"
    assert [list(item) for item in after.customdata] == [
        ["emulated", evidence],
        ["measured", evidence],
    ]


def test_the_plan_that_mends_the_first_cause_has_a_bar_below_the_causes() -> None:
    figure = diagnosis_figure(replace(DIAGNOSIS, plan_db=31.8))
    assert list(figure.data[-1].x) == [31.8]
    assert figure.data[-1].y[0] not in figure.data[0].y
    assert figure.layout.xaxis.title.text.endswith("dB (emulated, plan as it runs here)")


def test_the_limit_of_the_median_sample_is_a_line() -> None:
    figure = diagnosis_figure(DIAGNOSIS)
    (line,) = figure.layout.shapes
    assert line.x0 == line.x1 == 18.7
    assert figure.layout.xaxis.title.text == "SQNR of the median sample, dB (emulated)"


def test_bars_of_the_bad_samples_have_no_line_of_the_median_sample() -> None:
    figure = diagnosis_figure(replace(DIAGNOSIS, pattern=Pattern.IMPLEMENTATION, bad=(37,)))
    assert not figure.layout.shapes
    assert figure.layout.xaxis.title.text == "SQNR of the bad samples, dB (emulated)"


def test_a_healthy_plan_gets_a_sentence_and_no_bars() -> None:
    figure = diagnosis_figure(replace(DIAGNOSIS, pattern=Pattern.HEALTHY, findings=()))
    (said,) = figure.layout.annotations
    assert not figure.data
    assert "2.5 dB in the median of 96 samples; below 18.7 dB is bad" in said.text
