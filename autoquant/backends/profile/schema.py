"""The description of an accelerator, as its YAML file gives it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from autoquant.core.precision import Precision, Scheme
from autoquant.core.sites import OpKind, Site
from autoquant.job.section import Section

FUSED = math.inf
"""The rate of an op that runs inside the one that feeds it."""

SCHEMES = (
    Scheme.INT8,
    Scheme.INT16,
    Scheme.INT16_WEIGHT,
    Scheme.FP16,
    Scheme.BF16,
    Scheme.FP32,
)
"""What a file may describe: the schemes whose activations have one format from op to op."""


def _rate(value: object) -> float:
    """A rate per second; `fused` is one that takes no time."""
    if value == "fused":
        return FUSED
    try:
        rate = float(value) if not isinstance(value, bool) else math.nan  # type: ignore[arg-type]
    except (TypeError, ValueError):
        rate = math.nan
    if not 0 < rate < math.inf:
        raise ValueError(
            "write a number above 0, per second, or fused for an op that runs inside the one "
            "that feeds it"
        )
    return rate


def _described_scheme(value: object) -> object:
    names = [scheme.value for scheme in SCHEMES]
    if value not in names:
        raise ValueError(f"write one of {', '.join(names)}")
    return value


SchemeKey = Annotated[Scheme, Field(strict=False), BeforeValidator(_described_scheme)]
Kind = Annotated[OpKind, Field(strict=False)]
Format = Annotated[Precision, Field(strict=False)]
Rate = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_rate)]
Bound = Annotated[float, Field(strict=False)]
PerSecond = Annotated[float, Field(gt=0, strict=False)]
Duration = Annotated[float, Field(ge=0, strict=False)]


class Bandwidth(Section):
    """Bytes per second; the two differ where activations stay on the chip."""

    weights: PerSecond
    activations: PerSecond


class Conversion(Section):
    """What changing the format of a tensor costs."""

    elements_per_second: PerSecond
    fixed_us: Duration


class MeasuredOp(Section):
    """The time of the ops that match all of its patterns, from the vendor's profiler.

    Attributes:
        site: Glob on the site's name.
        kind: Kind of op.
        scheme: What it was measured in.
        ms: Its whole time, launch included.
    """

    site: str | None = None
    kind: Kind | None = None
    scheme: SchemeKey
    ms: Duration

    @model_validator(mode="after")
    def _whole(self) -> MeasuredOp:
        if self.site is None and self.kind is None:
            raise ValueError("it needs site or kind, to say which ops it is of")
        return self

    def describes(self, site: Site, scheme: Scheme) -> bool:
        """Whether this is the time of a site under a scheme."""
        return (
            self.scheme is scheme
            and (self.kind is None or self.kind is site.kind)
            and (self.site is None or fnmatchcase(site.name, self.site))
        )


class Measured(Section):
    """Measured times.

    Attributes:
        batch: Samples of the calls that were measured.
        ops: Later ones override earlier ones, and all of them override the rates.
    """

    batch: Annotated[int, Field(ge=1)]
    ops: Annotated[tuple[MeasuredOp, ...], Field(strict=False)]


class Function(Section):
    """What holds for the ops of one function, beside what holds for their kind.

    Attributes:
        schemes: In which they run, of those that their kind is described in; None: in all.
        fused_into: Kinds of ops within which they run, in no time, where they follow one.
        range: Of the grid on which their results are written in integers; None: as observed.
    """

    schemes: Annotated[tuple[SchemeKey, ...], Field(strict=False, min_length=1)] | None = None
    fused_into: Annotated[tuple[Kind, ...], Field(strict=False)] = ()
    range: Annotated[tuple[Bound, Bound], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Function:
        if self.range is not None and not self.range[0] < self.range[1]:
            low, high = self.range
            raise ValueError(f"range: {low} is not below {high}; write [low, high]")
        return self


class Accelerator(Section):
    """An accelerator: what it runs, and how fast.

    Attributes:
        name: For reports.
        source: Where the numbers come from.
        call_us: What every call takes beside its ops.
        launch_us: What every op takes beside its work.
        bandwidth: Of the memory; needed by `throughput`.
        depthwise_share: What part of a convolution's rate a depthwise one reaches.
        throughput: By scheme and kind, work per second: multiply-accumulates for kinds that have
            them, else elements of the largest tensor that the op reads or writes.
        functions: By function (`gelu`), what holds for it beside its kind.
        measured: Measured times.
        conversions: By format before and after.
        outside: Format of tensors that no site writes or no site reads: the model's inputs and
            outputs, and what ops that are no site read and write. None: any, at no cost.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    source: str
    call_us: Duration = 0.0
    launch_us: Duration
    bandwidth: Bandwidth | None = None
    depthwise_share: Annotated[float, Field(gt=0, le=1, strict=False)] = 1.0
    throughput: Mapping[SchemeKey, Mapping[Kind, Rate]] = Field(default_factory=dict)
    functions: Mapping[str, Function] = Field(default_factory=dict)
    measured: Measured | None = None
    conversions: Mapping[Format, Mapping[Format, Conversion]] = Field(default_factory=dict)
    outside: Format | None = None

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that some op is described in, in the order of `Scheme`."""
        described = set(self.throughput)
        if self.measured is not None:
            described |= {item.scheme for item in self.measured.ops}
        return tuple(scheme for scheme in Scheme if scheme in described)

    def measured_ms(self, site: Site, scheme: Scheme) -> float | None:
        """The measured time of a site under a scheme, None where there is none."""
        found = [] if self.measured is None else self.measured.ops
        return next((item.ms for item in reversed(found) if item.describes(site, scheme)), None)

    def rate(self, kind: OpKind, scheme: Scheme) -> float | None:
        """Work per second of a kind of op under a scheme, None where the file says nothing."""
        return self.throughput.get(scheme, {}).get(kind)

    def describes(self, site: Site, scheme: Scheme) -> bool:
        """Whether the file says what a site costs under a scheme, and does not rule it out."""
        return self.allows(site, scheme) and (
            self.rate(site.kind, scheme) is not None or self.measured_ms(site, scheme) is not None
        )

    def function(self, site: Site) -> Function:
        """What the file says of the function that a site computes (of a module, its class)."""
        name = _plain(site.fused[0])
        return next((item for key, item in self.functions.items() if _plain(key) == name), _ANY)

    def allows(self, site: Site, scheme: Scheme) -> bool:
        """Whether its function runs in a scheme, if its kind does."""
        schemes = self.function(site).schemes
        return schemes is None or scheme in schemes


_ANY = Function()


def _plain(name: str) -> str:
    """`leaky_relu` and `LeakyReLU` are one function."""
    return name.replace("_", "").lower()
