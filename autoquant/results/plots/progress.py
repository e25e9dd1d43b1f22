"""Progress: how the trade improved from candidate to candidate."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from autoquant.core.measurement import Candidate
from autoquant.core.pareto import hypervolume
from autoquant.results.findings import Findings
from autoquant.results.plots.style import ACCENT, GRID, MUTED, note, plain_figure

_HEIGHT = 300
_PERCENT = 100.0


def progress_figure(findings: Findings) -> go.Figure:
    """Draw the hypervolume after each candidate, as a share of the last.

    It is over the sampler's objectives, up to the frontier's reference point, of the candidates
    within the allowed accuracy drop. The shaded part is the seeds.
    """
    figure = plain_figure(height=_HEIGHT)
    counted = [item for item in findings.comparable if _counts(item, findings)]
    volumes = _volumes(counted, findings)
    if not volumes or volumes[-1] <= 0.0:
        return note(figure, "Too few candidates to show progress.")
    figure.add_trace(
        go.Scatter(
            x=[item.number for item in counted],
            y=[volume / volumes[-1] * _PERCENT for volume in volumes],
            mode="lines",
            line={"color": ACCENT, "width": 2, "shape": "hv"},
            hovertemplate="after #%{x}: %{y:.1f}% of the final hypervolume<extra></extra>",
            name="hypervolume",
            showlegend=False,
        )
    )
    seeds = [item.number for item in findings.candidates if item.origin.startswith("seed")]
    if seeds:
        figure.add_vrect(
            x0=min(seeds) - 0.5,
            x1=max(seeds) + 0.5,
            fillcolor=GRID,
            opacity=0.6,
            line_width=0,
            layer="below",
            annotation={"text": "seeds", "font": {"size": 11, "color": MUTED}},
            annotation_position="bottom left",
        )
    figure.update_xaxes(title_text="Candidate")
    figure.update_yaxes(title_text="Hypervolume, % of final", range=[0, 104])
    return figure


def _counts(candidate: Candidate, findings: Findings) -> bool:
    names = {objective.measurement for objective in findings.frontier.objectives}
    if not names <= set(candidate.measurements):
        return False
    limit, drop = findings.facts.max_drop, candidate.measurements.get("accuracy_drop")
    return limit is None or drop is None or drop.value <= limit


def _volumes(counted: list[Candidate], findings: Findings) -> list[float]:
    objectives = findings.frontier.objectives
    losses = np.array(
        [[objective.loss(item.measurements) for objective in objectives] for item in counted]
    ).reshape(len(counted), len(objectives))
    reference = np.array(findings.frontier.reference)
    volumes = [hypervolume(losses[:count], reference) for count in range(1, len(counted) + 1)]
    return [float(volume) for volume in np.maximum.accumulate(volumes)] if volumes else []
