"""Numbers and plans in words: the one place that turns values into text for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from autoquant.core.frontier import NOISE_Z
from autoquant.core.measurement import (
    SQNR_CEILING_DB,
    Candidate,
    Kind,
    Measurement,
    Measurements,
    TimedBy,
)
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site

KIND_NOTES = {
    Kind.MEASURED: "measured: the real kernels ran on this machine.",
    Kind.EMULATED: "emulated: right numerics, computed in fp32; says nothing about speed.",
    Kind.ESTIMATED: (
        "estimated: computed from the plan by a model of its cost (bytes, bit operations, the "
        "target's cycles), not timed."
    ),
}
SPREAD_NOTE = "± is one standard error; a 95% interval is about twice as wide on either side."
BUSY = "busy"
CLOCK_NOTES = {
    TimedBy.THREAD: (
        "Times are CPU time of the calling thread, which leaves out what other processes take."
    ),
    TimedBy.PROCESS: (
        "Times are CPU time of the process, because the engine computes in another thread than "
        "the one that calls it."
    ),
    TimedBy.WALL: (
        "Times are wall time, because CPU time does not tell what a call takes here: other load "
        "on the machine is in them."
    ),
}
SINGLE_NOTE = (
    "one sample: the same builds, called on a single sample; where that is how you serve, search "
    "with backend.batch_size=1, which builds for it."
)
BUSY_NOTE = (
    "busy: because of other load on the machine the time, taken twice, differed by more than its "
    "errors, or calls were too short beside it."
)


class ScoreUnit(Enum):
    """How the user's metric is shown.

    `share`: values in [0, 1], shown in percent, drops in percentage points. `plain`: as they are,
    with more digits, since nobody knows how large they are.
    """

    SHARE = "share"
    PLAIN = "plain"

    @property
    def factor(self) -> float:
        """What a value is multiplied by before it is shown."""
        return 100.0 if self is ScoreUnit.SHARE else 1.0

    @property
    def drop_unit(self) -> str:
        """Unit of a drop, for axis titles and column heads."""
        return "points" if self is ScoreUnit.SHARE else "metric's unit"

    @property
    def value_unit(self) -> str:
        """Unit of a value."""
        return "%" if self is ScoreUnit.SHARE else "metric's unit"

    @property
    def digits(self) -> int:
        """Digits behind the point of a drop."""
        return 2 if self is ScoreUnit.SHARE else 4


_EXCEPTIONS = 12


def score_unit(everything: Iterable[Measurements], metric: str) -> ScoreUnit:
    """Show a metric as a share where all its values lie in [0, 1], unless its title says more.

    A loss, or what has a unit of its own, is no share: 0.3 seconds are not 30%.

    Args:
        everything: The float model's measurements, and those of candidates.
        metric: Its title, as `metric_title` gives it: `delay (s, lower is better)`.
    """
    values = [item["accuracy"].value for item in everything if "accuracy" in item]
    inside = all(0.0 <= value <= 1.0 for value in values)
    is_share = bool(values) and inside and not metric.endswith(")")
    return ScoreUnit.SHARE if is_share else ScoreUnit.PLAIN


def drop_text(drop: Measurement, unit: ScoreUnit) -> str:
    """Give a drop of the metric with its standard error, in its unit but without naming it."""
    return with_spread(drop, unit.factor, unit.digits)


def with_spread(measurement: Measurement, factor: float = 1.0, digits: int = 2) -> str:
    """Give `2.91 ± 0.04`; without a known standard error the value alone.

    >>> with_spread(Measurement(0.0022, Kind.MEASURED, stderr=0.0031), 100.0)
    '0.22 ± 0.31'
    >>> with_spread(Measurement(2.9, Kind.MEASURED, clock=TimedBy.THREAD, busy=True))
    '2.90 busy'
    """
    value = f"{measurement.value * factor:.{digits}f}"
    if float(value) == 0.0:
        value = value.removeprefix("-")
    error = "" if measurement.stderr is None else f" ± {measurement.stderr * factor:.{digits}f}"
    return or_busy(measurement, f"{value}{error}")


def or_busy(measurement: Measurement, text: str) -> str:
    """Give the text of a measurement, with the word where the machine was too busy for it."""
    return f"{text} {BUSY}" if measurement.busy else text


def interval_text(measurement: Measurement, factor: float = 1.0, digits: int = 2) -> str:
    """Give a value with its 95% interval.

    >>> interval_text(Measurement(2.9, Kind.MEASURED, stderr=0.05))
    '2.90 (2.80 to 3.00)'
    """
    value = measurement.value * factor
    text = f"{value:.{digits}f}"
    if measurement.stderr is not None:
        reach = NOISE_Z * measurement.stderr * abs(factor)
        text = f"{text} ({value - reach:.{digits}f} to {value + reach:.{digits}f})"
    return or_busy(measurement, text)


def sqnr_text(measurement: Measurement) -> str:
    """Give `34.6 ± 0.3`, or `exact` where the outputs are equal to the last bit."""
    if measurement.value >= SQNR_CEILING_DB:
        return "exact"
    return with_spread(measurement, digits=1)


def bytes_text(size: float) -> str:
    """Give a size with its unit.

    >>> bytes_text(275_456)
    '269 KiB'
    """
    if size < 1024:
        return f"{size:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        if size < 1024 or unit == "GiB":
            break
    return f"{size:.0f} {unit}" if size >= 10 else f"{size:.1f} {unit}"


def candidates_text(count: int) -> str:
    """A number of candidates."""
    return "1 candidate" if count == 1 else f"{count} candidates"


def at_start(name: str) -> str:
    """Give a name as a sentence begins with it.

    >>> at_start("accuracy"), at_start("mAP")
    ('Accuracy', 'mAP')
    """
    return name.capitalize() if name.islower() and name.isalpha() else name


def counts_text(plan: Plan) -> str:
    """Count ops by scheme: `18 int8, 2 fp32`."""
    return ", ".join(f"{count} {Scheme(name).title}" for name, count in plan.counts().items())


def main_scheme(plan: Plan) -> Scheme:
    """Give the scheme of most sites; of equals the first in the order of `Scheme`."""
    counts = plan.counts()
    return Scheme(max(counts, key=lambda scheme: counts[scheme]))


def exceptions_text(plan: Plan, sites: Sequence[Site]) -> tuple[str, ...]:
    """List the sites that do not have the main scheme, in graph order: `fc: fp32`.

    >>> exceptions_text(Plan.of({"a": Scheme.INT8, "b": Scheme.FP32, "c": Scheme.INT8}), ())
    ('b: fp32',)
    """
    main = main_scheme(plan)
    order = {site.name: index for index, site in enumerate(sites)}
    names = sorted(plan.schemes, key=lambda name: (order.get(name, len(order)), name))
    found = [f"{name}: {plan[name].title}" for name in names if plan[name] is not main]
    if len(found) <= _EXCEPTIONS:
        return tuple(found)
    return (*found[: _EXCEPTIONS - 1], f"and {len(found) - _EXCEPTIONS + 1} more")


def uniform_label(candidate: Candidate) -> str | None:
    """Name a uniform plan (`int8`, `fp32`); None for a mixed one.

    A seed that is uniform wherever its scheme is allowed counts as uniform.
    """
    schemes = list(candidate.plan.counts())
    if len(schemes) == 1:
        return f"all {Scheme(schemes[0]).title}"
    _, found, name = candidate.origin.partition("uniform-")
    return f"uniform {name}" if found else None


def kinds_of(everything: Iterable[Measurements], name: str) -> tuple[Kind, ...]:
    """Give the kinds that a measurement has among candidates, in the order of `Kind`."""
    found = {item[name].kind for item in everything if name in item}
    return tuple(kind for kind in Kind if kind in found)


def kinds_text(kinds: Iterable[Kind]) -> str:
    """Give `measured` or `measured, emulated`."""
    return ", ".join(kind.value for kind in kinds)
