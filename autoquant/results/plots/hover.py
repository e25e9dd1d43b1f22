"""What a point says when the mouse is over it."""

from __future__ import annotations

from html import escape

from autoquant.core.measurement import Candidate, fastest_float
from autoquant.core.objectives import own_goals
from autoquant.results.findings import Findings
from autoquant.results.wording import (
    ScoreUnit,
    bytes_text,
    counts_text,
    exceptions_text,
    main_scheme,
    sqnr_text,
    with_spread,
)


def hover_text(candidate: Candidate, findings: Findings, unit: ScoreUnit) -> str:
    """Describe a candidate: numbers with kinds, counts, and the sites out of line.

    In the markup of plotly's hover labels; names are escaped.
    """
    lines = [f"<b>#{candidate.number}</b>  {escape(candidate.origin)}"]
    lines += _numbers(candidate, unit, findings)
    lines.append(f"<br>{counts_text(candidate.plan)}")
    exceptions = exceptions_text(candidate.plan, findings.sites)
    if exceptions:
        lines.append(f"not {main_scheme(candidate.plan).value}:")
        lines += [f"  {escape(text)}" for text in exceptions]
    return "<br>".join(lines)


def _numbers(candidate: Candidate, unit: ScoreUnit, findings: Findings) -> list[str]:
    metric = findings.facts.metric
    scheme = fastest_float(findings.frontier.baseline)
    float_name = f"all {scheme.value if scheme is not None else 'float'}"
    formats = (
        ("speedup", "speed-up {}x", 1.0, 2),
        ("float_speedup", f"over {float_name} {{}}x", 1.0, 2),
        ("latency_ms", "{} ms", 1.0, 2),
        ("accuracy_drop", f"{escape(metric)} drop {{}} {unit.drop_unit}", unit.factor, 2),
        ("heldout_accuracy_drop", f"held-out drop {{}} {unit.drop_unit}", unit.factor, 2),
    )
    lines = [
        f"{words.format(with_spread(candidate.measurements[name], factor, digits))} "
        f"<i>{candidate.measurements[name].kind.value}</i>"
        for name, words, factor, digits in formats
        if name in candidate.measurements
    ]
    sqnr = candidate.measurements.get("sqnr_db")
    if sqnr is not None:
        lines.append(f"SQNR {sqnr_text(sqnr)} dB <i>{sqnr.kind.value}</i>")
    lines += [
        f"{escape(goal.quantity.title)} {candidate.value(goal.measurement):.4g} "
        f"{escape(goal.unit)} <i>{candidate.measurements[goal.measurement].kind.value}</i>"
        for goal in own_goals(findings.frontier.objectives)
        if goal.measurement in candidate.measurements
    ]
    size = candidate.measurements.get("size_bytes")
    return [*lines, f"{bytes_text(size.value)} <i>{size.kind.value}</i>"] if size else lines
