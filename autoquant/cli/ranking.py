"""The tables of `autoquant sensitivity`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from autoquant.cli.options import table_of
from autoquant.core.findings.sensitivity_report import SensitivityReport
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Measure, Method, Part, SensitivityTable
from autoquant.results.wording import ScoreUnit, kinds_of, kinds_text, score_unit, with_spread


def ranking_tables(report: SensitivityReport, top: int) -> Iterator[Table]:
    """One ranking for each scheme, most sensitive knob first."""
    table, space = report.table, report.space
    rows, unit = table.by_key, score_unit(report.metric.values())
    for scheme in space.schemes:
        ranking = table.ranking(scheme, report.by)
        if not ranking or scheme is Scheme.FP32:
            continue
        losses = ("both", "weights", "activations", "cosine", *_further(report.by))
        numbers = (*losses, f"metric drop, {unit.drop_unit}")
        shown = table_of(
            ("knob", "sites", "type", "dtype", *numbers, "method"),
            right=("sites", *numbers),
            title=f"{scheme.title}: SQNR in dB with one knob alone in {scheme.value} "
            f"({_how(table)}{_which(report)}{_by(report.by)})",
        )
        kinds = report.kinds
        for row in ranking[:top]:
            parts = [rows.get((row.knob, scheme, part)) for part in Part]
            shown.add_row(
                row.knob,
                str(len(space.by_name[row.knob].sites)),
                kinds.get(row.knob, ""),
                _dtype(scheme),
                *(f"{item.sqnr_db:.1f}" if item else "" for item in parts),
                "-" if row.cosine is None else f"{row.cosine:.6f}",
                *(_number(row.loss(report.by)) for _ in _further(report.by)),
                _drop(report, row.knob, scheme, unit),
                row.method.value,
            )
        if len(ranking) > top:
            shown.caption = f"and {len(ranking) - top} less sensitive ones; --top lists more"
        yield shown


def _dtype(scheme: Scheme) -> str:
    """What a scheme makes of the op: its activations' format, and its weights' where another."""
    activation, weight = scheme.activation.value, scheme.weight.value
    return activation if activation == weight else f"{activation}, weights {weight}"


def _further(by: Measure) -> tuple[str, ...]:
    """The column of the measure that ranks, where it has none yet."""
    heads = {Measure.MSE: ("MSE",), Measure.L1: ("L1",), Measure.KL: ("KL",)}
    return heads.get(by, ())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _by(by: Measure) -> str:
    return "" if by is Measure.SQNR else f"; ranked by {by.value}"


def metric_note(report: SensitivityReport) -> str | None:
    """Which rows' metric was measured, how, and on how much; None where none was."""
    if not report.metric:
        return None
    drop = next(iter(report.metric.values()))["accuracy_drop"]
    kinds = kinds_text(kinds_of(report.metric.values(), "accuracy_drop"))
    return (
        f"metric drop: of the {len(report.metric)} noisiest rows over all schemes ({kinds}; "
        f"{drop.samples} samples, paired with fp32; ± is one standard error)."
    )


def _drop(report: SensitivityReport, knob: str, scheme: Scheme, unit: ScoreUnit) -> str:
    found = report.metric.get((knob, scheme))
    return "" if found is None else with_spread(found["accuracy_drop"], unit.factor)


def _which(report: SensitivityReport) -> str:
    return "" if report.indices is None else ", chosen"


def _how(table: SensitivityTable) -> str:
    """Kind of the numbers, and what stands behind them."""
    if any(row.method is Method.ENGINE for row in table.rows):
        return f"measured on the engine, {table.samples} samples"
    is_exact = {row.method is Method.EXACT for row in table.rows}
    kinds = {
        frozenset({True}): "emulated",
        frozenset({False}): "estimated",
        frozenset({True, False}): "exact rows emulated, the others estimated",
    }
    samples = f"{table.samples} samples" if table.samples else "no data"
    return f"{kinds[frozenset(is_exact)]}, {samples}"
