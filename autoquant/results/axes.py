"""Axes of the trade: which measurement, in which unit, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from autoquant.core.measurement import Candidate, Measurements
from autoquant.core.objectives import Goal, Objective
from autoquant.core.quantities import ACCURACY_DROP, LOWER, SQNR
from autoquant.results.findings import Findings
from autoquant.results.wording import ScoreUnit, at_start, kinds_of, kinds_text


@dataclass(frozen=True, slots=True)
class Axis:
    """How one measurement is drawn.

    Attributes:
        name: The measurement.
        title: With unit; kinds are added by `titled`.
        factor: What a value is multiplied by; negative where up must be better.
        is_reversed: Whether the axis runs from high to low, so that better is right or up.
    """

    name: str
    title: str
    factor: float = 1.0
    is_reversed: bool = False

    def titled(self, everything: Sequence[Measurements]) -> str:
        """Give the title with the kinds of the numbers on the axis."""
        kinds = kinds_text(kinds_of(everything, self.name))
        busy = any(self.name in item and item[self.name].busy for item in everything)
        title = f"{self.title} ({kinds})" if kinds else self.title
        return f"{title}; hollow: the machine was busy" if busy else title

    def value(self, candidate: Candidate) -> float:
        """Give a candidate's position."""
        return candidate.measurements[self.name].value * self.factor

    def error(self, candidate: Candidate) -> float:
        """Give its standard error, 0 where unknown."""
        return (candidate.measurements[self.name].stderr or 0.0) * abs(self.factor)


def cost_axis(findings: Findings) -> Axis:
    """Give the first cost of the frontier that candidates have; size where there is none."""
    for objective in (*findings.frontier.axes[1:], Objective.SIZE):
        if any(objective.measurement in item.measurements for item in findings.comparable):
            return _cost_axis(objective, findings)
    return _cost_axis(Objective.LATENCY, findings)


def _cost_axis(objective: Goal, findings: Findings) -> Axis:
    baseline = findings.frontier.baseline
    quantity = objective.quantity
    named = replace(quantity, title=quantity.title[:1].upper() + quantity.title[1:])
    if objective is Objective.LATENCY:
        return Axis(quantity.name, f"{named.title} over {findings.facts.rival}, times")
    if objective is Objective.BOPS:
        return Axis(quantity.name, named.titled("% of fp32"), 100.0, is_reversed=True)
    if objective is Objective.INT16_SHARE:
        return Axis(quantity.name, named.titled("%"), 100.0, is_reversed=True)
    if objective is not Objective.SIZE:
        return Axis(quantity.name, named.titled(), is_reversed=True)
    whole = baseline[quantity.name].value if quantity.name in baseline else 0.0
    if whole:
        share = 100.0 / whole
        return Axis(quantity.name, named.titled("% of fp32"), share, is_reversed=True)
    return Axis(quantity.name, named.titled("MiB"), 2.0**-20, is_reversed=True)


def drop_axis(unit: ScoreUnit, metric: str) -> Axis:
    """Give the metric's change against fp32: 0 is no change, below is worse."""
    change = "gain over" if LOWER in metric else "change against"
    title = f"{at_start(metric)} {change} fp32, {unit.drop_unit}"
    return Axis(ACCURACY_DROP.name, title, -unit.factor)


SQNR_AXIS = Axis(SQNR.name, f"Output {SQNR.title} against fp32, {SQNR.unit}")


_FENCE = 3.0
_MARGIN = 0.06


@dataclass(frozen=True, slots=True)
class Window:
    """A range of an axis, and how many points it leaves out."""

    low: float
    high: float
    outside: int


def window(values: Sequence[float], kept: Sequence[float], ceiling: float | None = None) -> Window:
    """Choose a range that shows all of `kept` and most of `values`.

    Values beyond Tukey's outer fences (three times the length of the central half, on either
    side of it) stay outside unless kept; so does all that reaches the ceiling.

    Args:
        values: Positions of the points, at least one.
        kept: Positions that must be seen.
        ceiling: From here on a value means "no limit" and has no place on the axis.

    >>> window([0.0, 1.0, 2.0, 3.0, 500.0], [3.0]).outside
    1
    """
    below = [value for value in values if ceiling is None or value < ceiling] or list(values)
    wanted = [value for value in kept if ceiling is None or value < ceiling]
    first, third = (float(item) for item in np.quantile(below, (0.25, 0.75)))
    reach = _FENCE * (third - first)
    inside = [value for value in below if first - reach <= value <= third + reach]
    low, high = min([*inside, *wanted]), max([*inside, *wanted])
    margin = _MARGIN * (high - low) or 1.0
    outside = sum(not low <= value <= high for value in values)
    return Window(low - margin, high + margin, outside)
