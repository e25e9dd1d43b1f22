"""What was found at each op of a quantized model, beside the same op of the float model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autoquant.core.findings.magnitudes import Magnitudes
from autoquant.core.glance import Glance, Glanced, few
from autoquant.core.json_values import fields_json
from autoquant.core.measurement import Kind
from autoquant.core.precision import Scheme
from autoquant.core.sensitivity import Part


class ComparisonMode(Enum):
    """What each op of the quantized model is fed, as torch's Numeric Suite names it.

    `unshadowed`: each model runs on its own activations, so that errors pile up along the
    network. `shadowed`: every quantized op is fed the float model's activations, rounded as the
    plan says: its own error alone. `n-shadows`: the same for several schemes at once.
    """

    UNSHADOWED = "unshadowed"
    SHADOWED = "shadowed"
    N_SHADOWS = "n-shadows"

    @property
    def feeds_float(self) -> bool:
        """Whether quantized ops are fed the float model's activations."""
        return self is not ComparisonMode.UNSHADOWED


class Cause(Enum):
    """Why an op's tensor is far from the float model's.

    `out_of_range`: values lie beyond what the scale can express. `outliers`: a few values or
    channels set the scale of all. `too_coarse`: the range is right, the steps are too large.
    `weights`: the weights' rounding. `inherited`: the error came in with the inputs.
    `unexplained`: none of these is large enough.
    """

    OUT_OF_RANGE = "out of range"
    OUTLIERS = "outliers"
    TOO_COARSE = "too coarse"
    WEIGHTS = "weights"
    INHERITED = "inherited"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row means."""

    cause: Cause
    evidence: str
    advice: str


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """How the quantized model stores a tensor.

    Attributes:
        dtype: `quint8`, `int16`, `float16`, ...
        scale: Step of an integer grid, the largest where each channel has its own; None: floats.
        zero_point: Of that grid; None where there is none, or one for each channel.
        low: Smallest value that it can express; None: no such bound.
        high: Largest value that it can express.
        scale_count: How many scales the tensor has.
    """

    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    low: float | None = None
    high: float | None = None
    scale_count: int = 0


@dataclass(frozen=True, slots=True)
class Moments:
    """Minimum, maximum, mean and (population) variance of all elements."""

    low: float
    high: float
    mean: float
    variance: float

    @property
    def power(self) -> float:
        """Mean square."""
        return self.variance + self.mean**2


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far a tensor of the quantized model is from the float model's.

    Attributes:
        sqnr_db: 10 log10(sum float^2 / sum error^2) over all elements, from -150 to 150.
        cosine: Mean over samples of the cosine similarity.
        mse: Mean squared error.
        l1: Mean absolute error.
        kl: Mean over samples of KL(softmax(float) || softmax(quantized)), nats; None for weights.
        max_absolute: Largest absolute error.
        max_relative: Largest |error| / max(|float|, m / 256), m the largest |float| of the sample.
        max_steps: Largest absolute error in units of the scale; None where there is no scale.
    """

    sqnr_db: float
    cosine: float
    mse: float
    l1: float
    kl: float | None
    max_absolute: float
    max_relative: float
    max_steps: float | None = None


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One tensor of both models: an op's output or its weight.

    Attributes:
        op: Name of the site; `input NAME` for what the model is given.
        call: Which call of a shared module, from 0.
        part: Activation (the op's output) or weight.
        tensor: Name of the node in the float graph, or of the parameter.
        scheme: What the plan chose; None: a quantized model that was given.
        float_type: Class or function of the float op.
        quantized_type: Class or function of the quantized op.
        shape: Of the tensor, at the first batch.
        format: How the quantized model stores it.
        error: How far apart they are.
        expected: The float model's values.
        found: The quantized model's values.
        feeds: Rows that the op reads, as (op, call).
        sqnr_estimates: By dtype (`int8`, `int16`, `fp16`), the SQNR that rounding alone would
            leave of the float values over their full range, in decibels: estimated.
        tail: Largest magnitude over the one that 99.9% of the float values keep to.
        channel_spread: Largest magnitude of any channel over that of the median channel.
        not_finite: Elements left out because either side was NaN or infinite.
        own: Mean over samples of the user's function; None: it was not asked.
        reading: Why it is far from float; None where it is not.
    """

    op: str
    call: int
    part: Part
    tensor: str
    scheme: Scheme | None
    float_type: str
    quantized_type: str
    shape: tuple[int, ...]
    format: TensorFormat
    error: LayerError
    expected: Moments
    found: Moments
    feeds: tuple[tuple[str, int], ...] = ()
    sqnr_estimates: Mapping[str, float] = field(default_factory=dict)
    tail: float = 1.0
    channel_spread: float = 1.0
    not_finite: int = 0
    own: float | None = None
    reading: Reading | None = None

    @property
    def label(self) -> str:
        """The op, with its call where there are several."""
        return self.op if self.call == 0 else f"{self.op} (call {self.call + 1})"


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """How the values of one activation are spread in both models."""

    expected: Magnitudes
    found: Magnitudes


LOUD_CHANNELS = 8.0
"""From here on channels cost the others three of their bits."""


@dataclass(frozen=True, slots=True)
class TriedMend:
    """More bits for the ops that make the error, tried on the samples that were compared.

    Attributes:
        sites: What was raised: ops to blame, what feeds them, and what else reads that.
        schemes: What these run in then.
        before_db: SQNR of the outputs.
        after_db: The same with these ops raised.
    """

    sites: tuple[str, ...]
    schemes: tuple[Scheme, ...]
    before_db: float
    after_db: float

    def __str__(self) -> str:
        names = ", ".join(scheme.value for scheme in self.schemes)
        return (
            f"{few(self.sites)} in {names}: outputs {self.before_db:.1f} -> {self.after_db:.1f} dB"
        )


@dataclass(frozen=True, eq=False, repr=False)
class LayerComparison(Glanced):
    """A quantized model beside its float model, op by op.

    Attributes:
        mode: What the quantized ops were fed.
        rows: Activations in execution order; under n-shadows one for each scheme of an op.
        weights: Weights in execution order, batch norms folded.
        output: The models' outputs, all floating ones together (KL: of the first); None where ops
            are fed floats, so that no error reaches the outputs.
        samples: How many samples were compared.
        kind: `emulated` where an op of the quantized model is, else `measured`.
        distributions: By position in `rows`.
        notices: What to know of how ops were paired.
        own: Name of the user's function that layers were compared by; None: none was given.
        mend: More bits for the ops to blame, tried; None where none is, or no plan was compared.
    """

    mode: ComparisonMode
    rows: tuple[LayerRow, ...]
    weights: tuple[LayerRow, ...]
    output: LayerError | None
    samples: int
    kind: Kind
    distributions: tuple[Distribution, ...]
    notices: tuple[str, ...] = ()
    own: str | None = None
    mend: TriedMend | None = None

    @property
    def glance(self) -> Glance:
        """The worst ops in a few lines."""
        rows = [
            (row.op, row.scheme.value if row.scheme else "-", f"{row.error.sqnr_db:.1f}")
            for row in self.worst(8)
        ]
        whole = "" if self.output is None else f", outputs at {self.output.sqnr_db:.1f} dB"
        title = f"{self.mode.value} comparison of {len(self.rows)} ops{whole}"
        title = "; ".join((title, *self.notices))
        heads = ("the worst", "scheme", "SQNR, dB")
        return Glance(title, heads, rows, "comparison.worst(20), comparison.rows")

    def worst(self, count: int) -> tuple[LayerRow, ...]:
        """Activations with the lowest SQNR, the worst first."""
        return tuple(sorted(self.rows, key=lambda row: row.error.sqnr_db)[:count])

    @property
    def to_raise(self) -> frozenset[str]:
        """Ops whose own grids or weights make the error, what feeds them, and what else reads that.

        An op in integers rounds what it reads again, so that a tensor is raised where all its
        readers are; and it rounds what it writes, so that outlier channels are raised where they
        are written, also as a part of a sum.
        """
        causes = (Cause.OUTLIERS, Cause.TOO_COARSE, Cause.WEIGHTS)
        guilty = {row.op for row in self.findings if row.reading and row.reading.cause in causes}
        fed = {row.op: {name for name, _ in row.feeds} for row in self.rows}
        sources = {name for op in guilty for name in fed.get(op, ())}
        raised = guilty | sources | {op for op, names in fed.items() if names & sources}
        loud = {row.op for row in self.rows if row.channel_spread >= LOUD_CHANNELS}
        return frozenset(
            raised | {name for op in raised for name in fed.get(op, ()) if name in loud}
        )

    @property
    def findings(self) -> tuple[LayerRow, ...]:
        """Rows that need attention, weights last."""
        return tuple(row for row in (*self.rows, *self.weights) if row.reading is not None)

    def to_json(self) -> dict[str, Any]:
        """Give everything but the distributions as JSON values."""
        found = fields_json(self, but=("distributions",))
        found["activations"] = found.pop("rows")
        return {**found, "mend": None if self.mend is None else str(self.mend)}
