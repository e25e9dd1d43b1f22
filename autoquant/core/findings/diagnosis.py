"""Diagnosis: why a quantized model is wrong, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from autoquant.core.glance import Glance, Glanced
from autoquant.core.json_values import fields_json
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme


class Pattern(Enum):
    """How the error is spread over the samples.

    `healthy`: no more than rounding makes. `insensitive`: most samples are bad, so the data do not
    matter and an op or a range is to blame. `sensitive`: few samples are bad: outliers.
    `implementation`: an engine's kernel computes something else than the plan says.
    """

    HEALTHY = "healthy"
    INSENSITIVE = "data-insensitive"
    SENSITIVE = "data-sensitive"
    IMPLEMENTATION = "implementation"


class Cause(Enum):
    """What can be wrong, in the order in which it is mended."""

    KERNEL = "wrong kernel"
    OUTLIER_SAMPLE = "outlier sample"
    OUTLIER_CALIBRATION = "outlier in the calibration data"
    CLIPPED_RANGE = "clipped range"
    VARYING_RANGE = "varying range"
    SATURATED = "saturated activation"
    OUTLIER_CHANNELS = "outlier channels"
    PER_TENSOR_WEIGHT = "one scale for unequal weight channels"
    RESOLUTION = "too coarse"


@dataclass(frozen=True, slots=True)
class KernelCheck:
    """One op of a built plan against the reference computation on the same inputs.

    Attributes:
        site: The op.
        scheme: What it computes in.
        roundings: Largest difference, in what rounding explains: above 1 the kernel is wrong.
        share: Share of the output's elements that differ by more, from 0 to 1.
    """

    site: str
    scheme: Scheme
    roundings: float
    share: float

    @property
    def is_right(self) -> bool:
        """Whether rounding explains all differences."""
        return self.roundings <= 1.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One cause of the output error.

    Attributes:
        cause: What is wrong.
        sites: The ops it is wrong at, the first to look at first.
        touching: Those that must be raised together, if bits are what is missing: a tensor is
            rounded where it is written and where it is read.
        samples: Indices of the samples it is wrong on; empty where all are.
        evidence: What was measured, in words and numbers.
        step: What to do, with the command or the job's keys.
        before_db: SQNR of the outputs as they are: of the median sample, or of the bad samples
            where few are bad; emulated, but for a wrong kernel, where it is measured.
        after_db: The same with this cause mended and nothing else.
    """

    cause: Cause
    sites: tuple[str, ...]
    touching: tuple[str, ...]
    samples: tuple[int, ...]
    evidence: str
    step: str
    before_db: float
    after_db: float


@dataclass(frozen=True, slots=True)
class Variation:
    """How the range of one op's input differs from sample to sample.

    Attributes:
        site: The op that reads it.
        tensor: What it reads.
        ratio: The static range over the range of the median calibration sample.
        lost_bits: log2 of it: what a static scale takes from the median sample.
    """

    site: str
    tensor: str
    ratio: float
    lost_bits: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Diagnosis(Glanced):
    """The answer.

    Attributes:
        pattern: How the error is spread.
        samples: How many samples were compared.
        bad: Indices of the worst samples, where few are bad.
        sqnr_db: Of the whole data set, measured.
        median_sqnr_db: Of the median sample, measured.
        limit_db: Below this the median sample would be called bad.
        findings: Causes, the one to mend first first.
        notes: What was seen and does no harm here.
        variations: Inputs whose range differs most from sample to sample.
        plan: The plan with the ops of the first finding raised, where that is what to do.
        plan_db: What that plan gives where `before_db` is what there is; as it runs here.
        rules: The same for a search: `space.rules` that keep these ops raised.
    """

    pattern: Pattern
    samples: int
    bad: tuple[int, ...]
    sqnr_db: float
    median_sqnr_db: float
    limit_db: float
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    variations: tuple[Variation, ...]
    plan: Plan | None = None
    plan_db: float | None = None
    rules: str | None = None

    @property
    def next_step(self) -> str | None:
        """The one thing to do next; None where nothing is wrong."""
        return self.findings[0].step if self.findings else None

    @property
    def glance(self) -> Glance:
        """The causes in a few lines."""
        rows = [
            (
                item.cause.value,
                f"{item.before_db:.1f} -> {item.after_db:.1f}",
                ", ".join(item.sites),
            )
            for item in self.findings
        ]
        title = f"{self.pattern.value}: outputs at {self.sqnr_db:.1f} dB on {self.samples} samples"
        return Glance(title, ("cause", "mended, dB", "sites"), rows, self.next_step or "")

    def to_json(self) -> dict[str, Any]:
        """Give the diagnosis as JSON values."""
        found = fields_json(self, but=("bad",))
        return {**found, "indices": list(self.bad), "next_step": self.next_step}
