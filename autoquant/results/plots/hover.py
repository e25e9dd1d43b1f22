"""What a point says when the mouse is over it."""

from __future__ import annotations

from html import escape

from autoquant.core.measurement import Candidate
from autoquant.results.findings import Findings
from autoquant.results.page import facts
from autoquant.results.wording import ScoreUnit, counts_text, exceptions_text, main_scheme


def hover_text(candidate: Candidate, findings: Findings, unit: ScoreUnit) -> str:
    """Describe a candidate: numbers with kinds, counts, and the sites out of line.

    In the markup of plotly's hover labels; names are escaped.
    """
    lines = [f"<b>#{candidate.number}</b>  {escape(candidate.origin)}"]
    lines += [f"{escape(label)}: {text}" for label, text in facts(candidate, findings, unit)]
    lines.append(f"<br>{counts_text(candidate.plan)}")
    exceptions = exceptions_text(candidate.plan, findings.sites)
    if exceptions:
        lines.append(f"not {main_scheme(candidate.plan).value}:")
        lines += [f"  {escape(text)}" for text in exceptions]
    return "<br>".join(lines)
