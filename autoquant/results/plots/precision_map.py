"""The precision map: which scheme each op has, along the network, in each frontier member."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from autoquant.core.measurement import Candidate
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.results.findings import Findings
from autoquant.results.plots.axes import cost_axis
from autoquant.results.plots.style import (
    INK,
    MUTED,
    SCHEME_CODES,
    SCHEME_COLOURS,
    is_light,
    note,
    plain_figure,
)
from autoquant.results.wording import BUSY

_ROW_PIXELS = 34
_FRAME_PIXELS = 130
_CODES_UP_TO = 56
_LONGEST_NAME = 28
_NAME_PIXELS = 6


def precision_figure(findings: Findings) -> go.Figure:
    """Draw a row for each frontier member, fastest on top, and a column for each site.

    Sites are in graph order; each scheme has its colour and, where columns are wide enough, its
    short code in the cell.
    """
    members, sites = findings.frontier.members, _sites(findings)
    if not members or not sites:
        return note(plain_figure(height=200), "The frontier is empty.")
    used = [scheme for scheme in Scheme if _uses(members, scheme)]
    labels = [_label(member, findings) for member in members]
    names = _unique([_shorten(site.name) for site in sites])
    longest = max(len(name) for name in names)
    figure = plain_figure(
        height=_FRAME_PIXELS + _ROW_PIXELS * len(members) + _NAME_PIXELS * longest
    )
    figure.add_trace(_heat_map(members, sites, used, labels, names))
    for scheme in used:
        figure.add_trace(_legend_entry(scheme, named_code=len(sites) <= _CODES_UP_TO))
    figure.update_xaxes(
        title_text="Ops in graph order",
        tickangle=-90,
        tickfont={"size": 10},
        type="category",
        showgrid=False,
        categoryorder="array",
        categoryarray=names,
        range=[-0.5, len(names) - 0.5],
    )
    figure.update_yaxes(
        autorange="reversed",
        type="category",
        showgrid=False,
        ticklen=6,
        tickcolor="white",
        showline=False,
    )
    return figure


def _heat_map(
    members: Sequence[Candidate],
    sites: Sequence[Site],
    used: Sequence[Scheme],
    labels: Sequence[str],
    names: Sequence[str],
) -> go.Heatmap:
    schemes = [[member.plan[site.name] for site in sites] for member in members]
    options: dict[str, Any] = {}
    if len(sites) <= _CODES_UP_TO:
        options = {
            "text": [[_code(scheme) for scheme in row] for row in schemes],
            "texttemplate": "%{text}",
            "textfont": {"size": 10},
        }
    return go.Heatmap(
        z=[[used.index(scheme) for scheme in row] for row in schemes],
        x=list(names),
        y=list(labels),
        customdata=[
            [
                [site.name, site.kind.value, scheme.value, str(member.executed.get(site.name, "-"))]
                for site, scheme in zip(sites, row, strict=True)
            ]
            for member, row in zip(members, schemes, strict=True)
        ],
        hovertemplate="<b>%{customdata[0]}</b> (%{customdata[1]})<br>%{y}"
        "<br>plan %{customdata[2]}, ran %{customdata[3]}<extra></extra>",
        colorscale=_steps(used),
        zmin=-0.5,
        zmax=len(used) - 0.5,
        showscale=False,
        xgap=1,
        ygap=3,
        **options,
    )


def _steps(used: Sequence[Scheme]) -> list[tuple[float, str]]:
    """Give a colour scale with one flat step for each scheme."""
    count = len(used)
    return [
        (edge / count, SCHEME_COLOURS[scheme])
        for index, scheme in enumerate(used)
        for edge in (index, index + 1)
    ]


def _legend_entry(scheme: Scheme, *, named_code: bool) -> go.Scatter:
    code = f"  [{SCHEME_CODES[scheme]}]" if named_code else ""
    return go.Scatter(
        x=[None],
        y=[None],
        mode="markers",
        marker={"symbol": "square", "size": 14, "color": SCHEME_COLOURS[scheme]},
        name=scheme.title + code,
        hoverinfo="skip",
    )


def _code(scheme: Scheme) -> str:
    colour = INK if is_light(SCHEME_COLOURS[scheme]) else "white"
    return f'<span style="color:{colour}">{SCHEME_CODES[scheme]}</span>'


def _sites(findings: Findings) -> list[Site]:
    """Give the sites that every member's plan has."""
    plans = [member.plan.schemes for member in findings.frontier.members]
    return [site for site in findings.sites if all(site.name in plan for plan in plans)]


def _uses(members: Sequence[Candidate], scheme: Scheme) -> bool:
    return any(scheme.value in member.plan.counts() for member in members)


def _label(member: Candidate, findings: Findings) -> str:
    axis = cost_axis(findings)
    if axis.name not in member.measurements:
        return f"#{member.number}"
    value = axis.value(member)
    text = f"{value:.2f}x" if axis.name == "speedup" else f"{value:.0f}"
    if member.measurements[axis.name].busy:
        text = f"{text} {BUSY}"
    return f'#{member.number}  <span style="color:{MUTED}">{text}</span>'


def _shorten(name: str) -> str:
    """Keep the end of a path, which tells more than its beginning."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _unique(names: Sequence[str]) -> list[str]:
    """Number what shortening made equal, so that no two sites share a column."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found
