"""The report: one small HTML file that needs neither network nor server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import own_goals
from autoquant.core.quantities import SINGLE_SPEEDUP
from autoquant.results.choices import Choice, Rival, find_choices, find_rivals
from autoquant.results.findings import Findings
from autoquant.results.page import page_data
from autoquant.results.summary import findings_unit, single_text, summarize
from autoquant.results.table import candidate_table
from autoquant.results.wording import counts_text, drop_text, interval_text, sqnr_text, with_spread


def render_report(findings: Findings, folder: Path) -> str:
    """Give the report as HTML: its pictures are drawn by its own script.

    Everything that a user named (sites, origins, the job) is escaped.
    """
    return fill_template(
        "report.html.j2", {**_texts(findings), "data": page_data(findings, folder)}
    )


def fill_template(name: str, values: Mapping[str, Any]) -> str:
    """Render a template of this package; what is not marked safe is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autoquant.results"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name).render(values)


def _texts(findings: Findings) -> dict[str, Any]:
    frontier, chosen = findings.frontier, findings.chosen
    named = findings.facts.rival, findings.facts.metric, own_goals(frontier.objectives)
    return {
        "title": f"{findings.facts.name}: precision search",
        "subtitle": _subtitle(findings),
        "summary": summarize(findings),
        "choices": [_choice(item, findings) for item in find_choices(findings)],
        "rivals": [_rival(item, findings) for item in find_rivals(findings)],
        "rival": findings.facts.rival,
        "has_single": any(SINGLE_SPEEDUP.name in item.measurements for item in frontier),
        "metric": findings.facts.metric,
        "drop_unit": findings_unit(findings).drop_unit,
        "frontier": candidate_table(frontier.members, frontier.baseline, *named),
        "everything": candidate_table(findings.comparable, frontier.baseline, *named),
        "chosen": str(chosen.number) if chosen else "",
        "failures": [_explained(item) for item in findings.failures],
        "stopped": [_explained(item) for item in findings.stopped],
        "objectives": ", ".join(item.value.replace("_", " ") for item in frontier.objectives),
        "sensitivity_samples": findings.sensitivity.samples if findings.sensitivity else 0,
        "setup": tuple(_setup(findings)),
        "job": findings.job_text,
    }


def _choice(choice: Choice, findings: Findings) -> dict[str, Any]:
    found, unit = choice.candidate.measurements, findings_unit(findings)
    lines = []
    if "speedup" in found:
        lines.append(f"{with_spread(found['speedup'])} times {findings.facts.rival}")
    if "float_speedup" in found:
        lines.append(f"{with_spread(found['float_speedup'])} times the fastest float plan")
    if SINGLE_SPEEDUP.name in found:
        lines.append(f"one sample at a time {single_text(findings, choice.candidate)}")
    drop = drop_text(found["accuracy_drop"], unit)
    lines.append(f"{findings.facts.metric} drop {drop} {unit.drop_unit}")
    lines.append(f"output error {sqnr_text(found['sqnr_db'])} dB below the signal")
    lines.append(counts_text(choice.candidate.plan))
    return {
        "number": choice.candidate.number,
        "title": choice.title,
        "why": choice.why,
        "lines": lines,
    }


def _rival(rival: Rival, findings: Findings) -> dict[str, Any]:
    """A row: how fast it is, by how much the chosen candidate is faster, what it loses."""
    chosen, unit = findings.chosen, findings_unit(findings)
    faster = ""
    if chosen is not None and rival.speedup is not None and "speedup" in chosen.measurements:
        faster = f"{chosen.value('speedup') / rival.speedup.value:.2f}"
    known = rival.candidate.measurements if rival.candidate else {}
    drop = known.get("accuracy_drop")
    return {
        "title": rival.title,
        "number": rival.candidate.number if rival.candidate else None,
        "speedup": "-" if rival.speedup is None else interval_text(rival.speedup),
        "single": "-" if rival.single is None else interval_text(rival.single),
        "faster": faster or "-",
        "drop": "-" if drop is None else interval_text(drop, unit.factor, unit.digits),
    }


def _subtitle(findings: Findings) -> str:
    cpu = findings.environment.get("cpu") or {}
    parts = [
        f"{len(findings.sites)} ops",
        f"{len(findings.candidates)} candidates",
        f"target {findings.facts.target}",
        f"metric {findings.facts.metric}",
        str(cpu.get("model", "")),
    ]
    return " · ".join(part for part in parts if part)


def _explained(candidate: Candidate) -> dict[str, Any]:
    return {
        "number": candidate.number,
        "origin": candidate.origin,
        "ops": counts_text(candidate.plan),
        "reason": candidate.failure.reason if candidate.failure else candidate.stopped or "",
    }


def _setup(findings: Findings) -> Iterator[tuple[str, str]]:
    """Give labels and values of settings and environment, nested keys dotted."""
    yield "search", findings.facts.search_id
    for name, value in findings.facts.settings.items():
        yield name, "none" if value is None else str(value)
    yield from _flattened(findings.environment)


def _flattened(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            yield prefix + name, ", ".join(str(item) for item in value)
        else:
            yield prefix + name, "none" if value is None else str(value)
