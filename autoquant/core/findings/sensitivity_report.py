"""A sensitivity table with what was found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from autoquant.core.glance import Glance, Glanced
from autoquant.core.measurement import Measurements
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Measure, Part, SensitivityRow, SensitivityTable
from autoquant.core.space import SearchSpace

SENSITIVE_NOISE = 1e-3
"""A part that alone adds more than this share of the outputs' power (30 dB) is sensitive."""


@dataclass(frozen=True, slots=True)
class DualOp:
    """A knob whose weights and activations are each sensitive under one scheme.

    Raising only one of them (int16 keeps weights in int8, int16_weight keeps activations in int8)
    leaves the noise of the other.

    Attributes:
        knob: Its name.
        scheme: Under which it was found.
        weight_noise: Noise-to-signal ratio with its weights alone quantized.
        activation_noise: With its activations alone quantized.
        remedy: The first more precise scheme of the table that is not sensitive; None: there is
            none.
        remedy_noise: Noise under the remedy, or under the best scheme where there is none.
    """

    knob: str
    scheme: Scheme
    weight_noise: float
    activation_noise: float
    remedy: Scheme | None
    remedy_noise: float


def find_dual_ops(table: SensitivityTable, scheme: Scheme) -> tuple[DualOp, ...]:
    """Find the knobs that are sensitive in both parts under a scheme, the worst first."""
    rows = table.by_key
    found = []
    for row in table.ranking(scheme):
        weight = rows.get((row.knob, scheme, Part.WEIGHT))
        activation = rows.get((row.knob, scheme, Part.ACTIVATION))
        if weight is None or activation is None:
            continue
        if min(weight.noise, activation.noise) > SENSITIVE_NOISE:
            remedy, left = _remedy(table, row.knob, scheme)
            found.append(DualOp(row.knob, scheme, weight.noise, activation.noise, remedy, left))
    return tuple(found)


def _remedy(table: SensitivityTable, knob: str, scheme: Scheme) -> tuple[Scheme | None, float]:
    """The cheapest other scheme that is not sensitive, and the noise that it leaves."""
    noise = {other: value for (name, other), value in table.losses().items() if name == knob}
    for other in Scheme:
        if other is not scheme and other in noise and noise[other] <= SENSITIVE_NOISE:
            return other, noise[other]
    return None, min(noise.values())


NEAR_ZERO = 1e-2
"""A sane tail adds less than this share of the outputs' power: an SQNR above 20 dB."""

_LONGEST = 4
_SHARE = 0.25
_FEWEST_KNOBS = 4


@dataclass(frozen=True, slots=True)
class Tail:
    """The least sensitive knobs of one scheme.

    Where these still move the outputs, no op can be harmless: any small change is made large on
    its way, as top-k, argmax, thresholds and non-maximum suppression do.

    Attributes:
        scheme: What they took.
        knobs: Their names.
        noise: Median of their noise-to-signal ratios.
    """

    scheme: Scheme
    knobs: tuple[str, ...]
    noise: float

    @property
    def is_near_zero(self) -> bool:
        """Whether the table is sane."""
        return self.noise <= NEAR_ZERO


def tail_of(table: SensitivityTable, scheme: Scheme) -> tuple[str, ...]:
    """Name the least sensitive quarter of the knobs, at most four; none of fewer than four."""
    ranking = table.ranking(scheme)
    if len(ranking) < _FEWEST_KNOBS:
        return ()
    count = min(_LONGEST, max(1, round(len(ranking) * _SHARE)))
    return tuple(row.knob for row in ranking[-count:])


def read_tail(rows: Sequence[SensitivityRow]) -> Tail | None:
    """Give the tail that some rows of one scheme make; None without rows."""
    if not rows:
        return None
    noise = median(row.noise for row in rows)
    return Tail(rows[0].scheme, tuple(row.knob for row in rows), noise)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SensitivityReport(Glanced):
    """What each op does to the outputs and to the user's metric, and what stands out.

    Attributes:
        table: All rows: output error by knob, scheme and part.
        space: The knobs.
        metric: By knob and scheme, of the noisiest rows only: `accuracy` and `accuracy_drop` with
            this one alone, the drop paired with fp32 on the same samples.
        indices: Which evaluation samples were looked at; None: the first ones.
        tail: The least sensitive rows, measured exactly; None: there are too few knobs.
        dual: Ops that are sensitive in weights and activations.
        kinds: By site, the kind of its op.
        by: The measure that ranks.
        metric_title: What the user's metric is called, with its unit and direction.
    """

    table: SensitivityTable
    space: SearchSpace
    metric: Mapping[tuple[str, Scheme], Measurements]
    indices: tuple[int, ...] | None
    tail: Tail | None
    dual: tuple[DualOp, ...]
    kinds: Mapping[str, str] = field(default_factory=dict)
    by: Measure = Measure.SQNR
    metric_title: str = "accuracy"

    @property
    def glance(self) -> Glance:
        """Each knob and scheme: how far off the outputs are, and what the metric loses."""
        losses = self.table.losses(self.by)
        found = [self.table.by_key[knob, scheme, Part.BOTH] for knob, scheme in losses]
        found.sort(key=lambda row: -losses[row.knob, row.scheme])
        rows = [
            (row.knob, row.scheme.value, f"{row.sqnr_db:.1f}", self._drop(row.knob, row.scheme))
            for row in found
        ]
        heads = ("knob", "scheme", "SQNR, dB", "metric's drop")
        step = "aq.raise_most_sensitive(report.table, ratio=0.2)"
        return Glance(f"sensitivity of {len(self.space.knobs)} knobs", heads, rows, step)

    def _drop(self, knob: str, scheme: Scheme) -> str:
        found = self.metric.get((knob, scheme), {}).get("accuracy_drop")
        return "" if found is None else f"{found.value:.4f} ± {found.stderr or 0.0:.4f}"
