"""The report: one HTML file that needs neither network nor server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from autoquant.core.measurement import Candidate
from autoquant.core.objectives import own_goals
from autoquant.results.findings import Findings
from autoquant.results.plots import (
    Arrangement,
    pareto_figure,
    precision_figure,
    progress_figure,
    sensitivity_figure,
)
from autoquant.results.plots.style import SCHEME_COLOURS
from autoquant.results.summary import summarize
from autoquant.results.table import candidate_table
from autoquant.results.wording import counts_text

_CONFIG = {"displaylogo": False, "responsive": True, "modeBarButtonsToRemove": ["lasso2d"]}


@dataclass(frozen=True, slots=True)
class _Op:
    """A row of the table of ops."""

    name: str
    kind: str
    scheme: str
    colour: str
    executed: str
    differs: bool
    shape: str
    macs: str
    parameters: str


def render_report(findings: Findings) -> str:
    """Give the report as HTML, plotly.js included once (about 5 MB).

    Everything that a user named (sites, origins, the job) is escaped.
    """
    return fill_template("report.html.j2", {**_texts(findings), **_pictures(findings)})


def render_frontier_page(findings: Findings) -> str:
    """Give the Pareto plot and the frontier's table as HTML for a narrow frame, as MLflow's."""
    picture = pareto_figure(findings, Arrangement.STACKED)
    return fill_template(
        "frontier.html.j2",
        {"plotly": get_plotlyjs(), "pareto": picture_html(picture, "pareto"), **_texts(findings)},
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
    ops = tuple(_ops(findings, chosen)) if chosen else ()
    named = findings.facts.rival, findings.facts.metric, own_goals(frontier.objectives)
    return {
        "title": f"{findings.facts.name}: precision search",
        "subtitle": _subtitle(findings),
        "summary": summarize(findings),
        "frontier": candidate_table(frontier.members, frontier.baseline, *named),
        "everything": candidate_table(findings.comparable, frontier.baseline, *named),
        "chosen": str(chosen.number) if chosen else "",
        "ops": ops,
        "differing": sum(op.differs for op in ops),
        "failures": [_explained(item) for item in findings.failures],
        "stopped": [_explained(item) for item in findings.stopped],
        "objectives": ", ".join(item.value.replace("_", " ") for item in frontier.objectives),
        "sensitivity_samples": findings.sensitivity.samples if findings.sensitivity else 0,
        "setup": tuple(_setup(findings)),
        "job": findings.job_text,
    }


def _pictures(findings: Findings) -> dict[str, str]:
    figures = {
        "pareto": pareto_figure(findings),
        "precision": precision_figure(findings),
        "sensitivity": sensitivity_figure(findings.sensitivity),
        "progress": progress_figure(findings),
    }
    return {
        "plotly": get_plotlyjs(),
        **{name: picture_html(figure, name) for name, figure in figures.items()},
    }


def picture_html(figure: go.Figure, name: str) -> str:
    """Give a figure as a part of a page that holds plotly.js already."""
    return str(
        figure.to_html(
            full_html=False, include_plotlyjs=False, div_id=f"figure-{name}", config=_CONFIG
        )
    )


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


def _ops(findings: Findings, chosen: Candidate) -> Iterator[_Op]:
    for site in findings.sites:
        scheme = chosen.plan.schemes.get(site.name)
        if scheme is None:
            continue
        ran = chosen.executed.get(site.name)
        yield _Op(
            name=site.name,
            kind=" + ".join(site.fused) or site.kind.value,
            scheme=scheme.title,
            colour=SCHEME_COLOURS[scheme],
            executed="not read back" if ran is None else str(ran),
            differs=ran is not None and ran.scheme is not scheme,
            shape=" x ".join(str(size) for size in site.output_shape),
            macs=f"{site.macs:,}" if site.macs else "",
            parameters=f"{site.parameter_count:,}" if site.parameter_count else "",
        )


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
