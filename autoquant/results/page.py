"""What the report's script draws, as JSON values: points, plans, times and sensitivity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoquant.core.costs import CostTable
from autoquant.core.frontier import NOISE_Z
from autoquant.core.measurement import SQNR_CEILING_DB, Candidate, fastest_float
from autoquant.core.objectives import own_goals
from autoquant.core.pareto import Floats, frontier_mask, hypervolume
from autoquant.core.precision import Scheme
from autoquant.core.quantities import SINGLE_SPEEDUP
from autoquant.core.sensitivity import Part, SensitivityTable
from autoquant.core.sites import Site
from autoquant.results.axes import SQNR_AXIS, Axis, cost_axis, drop_axis, window
from autoquant.results.colours import SCHEME_CODES, SCHEME_COLOURS, is_light
from autoquant.results.findings import Findings
from autoquant.results.summary import findings_unit
from autoquant.results.wording import (
    ScoreUnit,
    bytes_text,
    counts_text,
    interval_text,
    uniform_label,
)

_FIRST_LETTER = ord("A")
_MOST_LETTERS = 800_000
"""Of all plans in a page; beyond it points have numbers only, members and uniform plans last."""

_NOTHING = 1e-6
"""Costs of boundaries below it are the rounding of a fit."""


def page_data(findings: Findings, folder: Path) -> dict[str, Any]:
    """Give all that the page's script needs.

    Plans are strings with a letter for each site: its scheme's place in `schemes`, from A on.
    """
    axes = (drop_axis(findings_unit(findings), findings.facts.metric), SQNR_AXIS)
    x, schemes = cost_axis(findings), _schemes(findings)
    reference = _reference(findings)
    return {
        "sites": [_site(site) for site in findings.sites],
        "schemes": [
            {
                "title": item.title,
                "name": item.value,
                "code": SCHEME_CODES[item],
                "colour": SCHEME_COLOURS[item],
                "light": is_light(SCHEME_COLOURS[item]),
            }
            for item in schemes
        ],
        "x": _axis(x, findings),
        "y": [_axis(axis, findings) | _range(axis, findings) for axis in axes],
        "points": _points(findings, x, axes, schemes),
        "chosen": None if findings.chosen is None else findings.chosen.number,
        "reference": None if reference is None else reference.number,
        "costs": _costs(findings.costs, findings.sites, schemes),
        "noise": _noise(findings.sensitivity, findings.sites, schemes),
        "progress": _progress(findings),
        "folder": str(folder),
    }


def _schemes(findings: Findings) -> list[Scheme]:
    used = {name for item in findings.comparable for name in item.plan.counts()}
    return [scheme for scheme in Scheme if scheme.value in used]


def _reference(findings: Findings) -> Candidate | None:
    """The uniform plan that others are compared with: all int8, or of the fewest bits."""
    uniform = [item for item in findings.comparable if uniform_label(item)]
    order = [Scheme.INT8.value, *(scheme.value for scheme in Scheme)]

    def place(item: Candidate) -> int:
        name = item.origin.partition("uniform-")[2] or next(iter(item.plan.counts()))
        return order.index(name) if name in order else len(order)

    return min(uniform, key=place, default=None)


def _site(site: Site) -> dict[str, Any]:
    return {
        "name": site.name,
        "kind": " + ".join(site.fused) or site.kind.value,
        "shape": " x ".join(str(size) for size in site.output_shape),
        "macs": site.macs,
        "parameters": site.parameter_count,
    }


def _axis(axis: Axis, findings: Findings) -> dict[str, Any]:
    shown = [item.measurements for item in findings.comparable if axis.name in item.measurements]
    return {"title": axis.titled(shown), "reversed": axis.is_reversed, "name": axis.name}


def _range(axis: Axis, findings: Findings) -> dict[str, Any]:
    """The part of an axis that is shown, and the heights that are marked."""
    known = [item for item in findings.comparable if axis.name in item.measurements]
    members = {item.number for item in findings.frontier}
    ceiling = SQNR_CEILING_DB if axis is SQNR_AXIS else None
    limit, marks = findings.facts.max_drop, [] if axis is SQNR_AXIS else [0.0]
    if limit is not None and axis is not SQNR_AXIS:
        marks.append(-limit * abs(axis.factor))
    if not known:
        return {"low": -1.0, "high": 1.0, "limit": None}
    kept = [axis.value(item) for item in known if item.number in members]
    seen = window([axis.value(item) for item in known], kept + marks, ceiling=ceiling)
    return {"low": seen.low, "high": seen.high, "limit": marks[1] if len(marks) > 1 else None}


def _points(
    findings: Findings, x: Axis, axes: Sequence[Axis], schemes: Sequence[Scheme]
) -> list[dict[str, Any]]:
    members = {item.number for item in findings.frontier}
    known = sorted(
        findings.comparable,
        key=lambda item: (item.number not in members and not uniform_label(item), item.number),
    )
    left, found, unit = _MOST_LETTERS, [], findings_unit(findings)
    for item in known:
        point = {
            "number": item.number,
            "origin": item.origin,
            "label": uniform_label(item),
            "member": item.number in members,
            "x": _place(x, item),
            "y": [_place(axis, item) for axis in axes],
            "kind": item.measurements["sqnr_db"].kind.value
            if "sqnr_db" in item.measurements
            else "",
            "busy": x.name in item.measurements and item.measurements[x.name].busy,
            "ops": counts_text(item.plan),
            "facts": list(facts(item, findings, unit)),
        }
        left -= 2 * len(findings.sites)
        if left > 0:
            point |= _plan(item, findings.sites, schemes)
        found.append(point)
    return found


def _place(axis: Axis, candidate: Candidate) -> list[float] | None:
    """Position, and half of its 95% interval."""
    if axis.name not in candidate.measurements:
        return None
    return [_short(axis.value(candidate)), _short(NOISE_Z * axis.error(candidate))]


def _plan(candidate: Candidate, sites: Sequence[Site], schemes: Sequence[Scheme]) -> dict[str, Any]:
    """The plan as letters; by site what did not run plainly so, and whether it differs."""
    plan, executed = candidate.plan.schemes, candidate.executed
    letters, ran = [], {}
    for place, site in enumerate(sites):
        scheme, found = plan.get(site.name), executed.get(site.name)
        letters.append(" " if scheme is None else chr(_FIRST_LETTER + schemes.index(scheme)))
        if scheme and found and str(found) != f"{scheme.value} native":
            ran[place] = (str(found), found.scheme is not scheme)
    return {"plan": "".join(letters), "ran": ran, "read": bool(executed)}


def facts(candidate: Candidate, findings: Findings, unit: ScoreUnit) -> Iterator[tuple[str, str]]:
    """A candidate's numbers with their 95% intervals and kinds, as labels and texts."""
    found = candidate.measurements
    scheme = fastest_float(findings.frontier.baseline)
    drop = f"{findings.facts.metric} drop, {unit.drop_unit}"
    for name, label, factor, digits in (
        ("speedup", f"times {findings.facts.rival}", 1.0, 2),
        ("float_speedup", f"times all {scheme.value if scheme else 'float'}", 1.0, 2),
        (SINGLE_SPEEDUP.name, f"times {findings.facts.rival}, one sample", 1.0, 2),
        ("latency_ms", "latency, ms", 1.0, 3),
        ("accuracy_drop", drop, unit.factor, unit.digits),
        ("heldout_accuracy_drop", f"held-out {drop}", unit.factor, unit.digits),
        ("sqnr_db", "output SQNR, dB", 1.0, 1),
        *((goal.measurement, goal.quantity.titled(), 1.0, 4) for goal in _own(findings)),
    ):
        if name in found:
            kind = found[name].kind.value
            is_exact = name == "sqnr_db" and found[name].value >= SQNR_CEILING_DB
            text = "exact" if is_exact else interval_text(found[name], factor, digits)
            yield label, f"{text} {kind}"
    if "size_bytes" in found:
        yield "size", f"{bytes_text(found['size_bytes'].value)} {found['size_bytes'].kind.value}"


def _own(findings: Findings) -> Sequence[Any]:
    return own_goals(findings.frontier.objectives)


def _costs(
    table: CostTable | None, sites: Sequence[Site], schemes: Sequence[Scheme]
) -> dict[str, Any] | None:
    """Cost by site and scheme, and of boundaries as [writer, reader, from, to, cost]."""
    if table is None:
        return None
    place = {site.name: index for index, site in enumerate(sites)}
    code = {scheme: index for index, scheme in enumerate(schemes)}
    ops: list[list[float | None]] = [[None] * len(schemes) for _ in sites]
    for (name, scheme), cost in table.ops.items():
        if name in place and scheme in code:
            ops[place[name]][code[scheme]] = _short(cost)
    edges = [
        (place[writer], place[reader], code[before], code[after], _short(cost))
        for (writer, reader), pairs in table.edges.items()
        for (before, after), cost in pairs.items()
        if {writer, reader} <= place.keys() and {before, after} <= code.keys() and _matters(cost)
    ]
    return {"unit": table.unit, "kind": table.kind.value, "ops": ops, "edges": edges}


def _matters(cost: float) -> bool:
    return abs(cost) > _NOTHING


def _noise(
    table: SensitivityTable | None, sites: Sequence[Site], schemes: Sequence[Scheme]
) -> list[dict[str, Any]]:
    """By knob: its sites, and by scheme the output's noise of both, weights, activations."""
    if table is None:
        return []
    place = {site.name: index for index, site in enumerate(sites)}
    within = {knob.name: knob.sites for knob in table.space.knobs} if table.space else {}
    rows = table.by_key
    knobs = dict.fromkeys(row.knob for row in table.rows)
    return [
        {
            "knob": knob,
            "sites": [place[name] for name in within.get(knob, (knob,)) if name in place],
            "noise": {
                index: [
                    _short(rows[knob, scheme, part].noise) if (knob, scheme, part) in rows else None
                    for part in (Part.BOTH, Part.WEIGHT, Part.ACTIVATION)
                ]
                for index, scheme in enumerate(schemes)
                if (knob, scheme, Part.BOTH) in rows
            },
        }
        for knob in knobs
    ]


def _progress(findings: Findings) -> list[tuple[int, float]]:
    """The hypervolume after each candidate, as a share of the last, where it changes.

    It is over the sampler's objectives, up to the frontier's reference point, of the candidates
    within the allowed accuracy drop.
    """
    objectives, limit = findings.frontier.objectives, findings.facts.max_drop
    names = {objective.measurement for objective in objectives}
    counted = [
        item
        for item in findings.comparable
        if names <= set(item.measurements)
        and (
            limit is None
            or "accuracy_drop" not in item.measurements
            or item.value("accuracy_drop") <= limit
        )
    ]
    losses = np.array(
        [[objective.loss(item.measurements) for objective in objectives] for item in counted]
    ).reshape(len(counted), len(objectives))
    reference = np.array(findings.frontier.reference)
    volumes = list(_volumes(losses, reference))
    if not volumes or max(volumes) <= 0.0:
        return []
    shares = np.maximum.accumulate(volumes) / max(volumes)
    return [(item.number, _short(share)) for item, share in zip(counted, shares, strict=True)]


def _volumes(losses: Floats, reference: Floats) -> Iterator[float]:
    """The hypervolume of the first point, of the first two, and so on."""
    front, volume = losses[:0], 0.0
    for row in losses:
        if not (front <= row).all(axis=1).any():
            front = np.concatenate([front, row[None, :]])
            front = front[frontier_mask(front)]
            volume = hypervolume(front, reference)
        yield volume


def _short(value: float) -> float:
    """Five digits, which a picture cannot show."""
    return float(f"{value:.5g}")
