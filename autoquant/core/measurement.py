"""Measurements, and candidates that carry them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from autoquant.core.json_values import fields_json, json_of, value_of
from autoquant.core.pairs import shared
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.readback import Ran, ReadBack

SQNR_CEILING_DB = 150.0
"""The `sqnr_db` of outputs that are equal to the last bit, instead of infinity."""


EAGER_FP32 = "fp32"
"""What speed-ups are over where latency is measured: the float model as given, run by torch."""

FLOAT_PLAN = "speedup.all-"
"""Of a baseline: how fast the engine runs a float plan (`speedup.all-bf16`), over eager fp32."""


RIVAL_PLAN = "rival."
"""Of a baseline: how fast another engine runs a float plan (`rival.openvino.all-fp32`)."""

SINGLE_RIVAL_PLAN = "single_rival."
"""Of a baseline: the same on one sample (`single_rival.openvino.all-fp32`)."""


class Kind(Enum):
    """How a number was obtained. Kinds are never mixed in one comparison.

    `measured`: the real kernels ran. `emulated`: right numerics, wrong speed. `estimated`: a
    model of the target.
    """

    MEASURED = "measured"
    EMULATED = "emulated"
    ESTIMATED = "estimated"


class TimedBy(Enum):
    """The clock of a time.

    `thread`: CPU time of the calling thread, which leaves out what other processes take.
    `process`: CPU time of the whole process. `wall`: time as it passes, which on a busy machine
    holds what others took.
    """

    THREAD = "thread"
    PROCESS = "process"
    WALL = "wall"


def noise_ratio(sqnr_db: float) -> float:
    """Noise over signal, as powers, of a signal-to-noise ratio in decibels."""
    return float(10.0 ** (-sqnr_db / 10.0))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number with its kind.

    Attributes:
        value: In the unit that the measurement's name says.
        kind: How it was obtained.
        stderr: Standard error of the value, None where it is exact or unknown.
        samples: How many samples or repetitions stand behind it, 0 where it is exact.
        clock: Of a time, and of a ratio of times; None for all else.
        busy: Whether the machine was too busy for it: taken twice, it differed by more than its
            error.
    """

    value: float
    kind: Kind
    stderr: float | None = None
    samples: int = 0
    clock: TimedBy | None = None
    busy: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measurement must be finite, got {self.value}")

    def to_json(self) -> dict[str, Any]:
        """Give the measurement as JSON values; `clock` and `busy` where it is a time."""
        return fields_json(self, but=("clock", "busy") if self.clock is None else ())


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a candidate has no measurements: data, not an exception.

    Attributes:
        reason: What happened, in one line.
        transient: Whether the same plan may succeed when tried again (a worker died).
        refused: Where it is the engine that refuses the plan: the sites that it names, if any.
    """

    reason: str
    transient: bool = False
    refused: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the failure as JSON values."""
        return fields_json(self, but=("refused",) if self.refused is None else ())


Measurements = Mapping[str, Measurement]


def fastest_float(baseline: Measurements) -> Scheme | None:
    """The scheme of the engine's fastest float plan, which `float_speedup` is over.

    None where latency was not measured, or before float plans were timed.
    """
    found = float_plans(baseline)
    return max(found, key=lambda scheme: found[scheme].value) if found else None


def float_plans(baseline: Measurements) -> dict[Scheme, Measurement]:
    """How fast the engine runs its float plans, over eager fp32."""
    return {
        Scheme(name.removeprefix(FLOAT_PLAN)): item
        for name, item in baseline.items()
        if name.startswith(FLOAT_PLAN)
    }


def rival_plans(
    baseline: Measurements, kind: str = RIVAL_PLAN
) -> dict[tuple[str, Scheme], Measurement]:
    """How fast other engines run the float plans that were timed there, over eager fp32.

    Args:
        baseline: Of a search.
        kind: `RIVAL_PLAN`, or `SINGLE_RIVAL_PLAN` of one sample.
    """
    found = {}
    for name, item in baseline.items():
        if name.startswith(kind):
            engine, _, scheme = name.removeprefix(kind).rpartition(".all-")
            found[engine, Scheme(scheme)] = item
    return found


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plan that was tried.

    Attributes:
        number: Its number in the search, given when it was asked for.
        plan: What was tried.
        origin: Where it came from (`seed:uniform-int8`, `seed:ladder-20%`, `tpe`).
        measurements: By name: `accuracy`, `accuracy_drop`, `sqnr_db`, `kl`, `latency_ms`,
            `speedup`, `float_speedup`, `single_speedup`, `size_bytes`, `bops_ratio`; held-out ones
            carry the prefix `heldout_`.
        failure: Why there are no measurements, None for a success.
        stopped: Why something was not measured, or not on all samples (it could not have reached
            the frontier any more); None where everything was. Such a candidate is never on the
            frontier.
        seconds: Seconds by phase (`build`, `quality`, `latency`...).
        executed: By site: what the engine really ran, as read back from the executable.
    """

    number: int
    plan: Plan
    origin: str
    measurements: Measurements = field(default_factory=dict)
    failure: Failure | None = None
    stopped: str | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    executed: ReadBack = field(default_factory=dict)

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={self.measurements[name].value:.4g}"
            f"{' (busy)' if self.measurements[name].busy else ''}"
            for name in ("accuracy", "accuracy_drop", "sqnr_db", "speedup", "float_speedup")
            if name in self.measurements
        )
        if self.failure is not None:
            shown = f"failed: {self.failure.reason}"
        return f"<candidate {self.number} ({self.origin}): {shown}, {self.plan.counts()}>"

    @property
    def digest(self) -> str:
        """The plan's digest."""
        return self.plan.digest

    def value(self, name: str) -> float:
        """Value of one measurement; a KeyError lists those that there are."""
        if name not in self.measurements:
            known = ", ".join(sorted(self.measurements)) or "none"
            raise KeyError(f"candidate {self.number} has no {name!r}; it has: {known}")
        return self.measurements[name].value

    def to_json(self) -> dict[str, Any]:
        """Give the candidate as JSON values: one line of the history."""
        return {
            "number": self.number,
            "digest": self.digest,
            "origin": self.origin,
            "plan": self.plan.to_json(),
            "values": json_of(self.measurements),
            "failure": json_of(self.failure),
            "stopped": self.stopped,
            "seconds": dict(self.seconds),
            "executed": json_of(self.executed),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Read back what `to_json` gave."""
        number = data["number"]
        if type(number) is not int or number < 0:  # it becomes part of a path
            raise ValueError(f"{number!r} is no candidate's number")
        return cls(
            number=number,
            plan=Plan.from_json(data["plan"]),
            origin=data["origin"],
            measurements=value_of(dict[str, Measurement], data["values"]),
            failure=value_of(Failure, data["failure"]) if data["failure"] else None,
            stopped=data.get("stopped"),
            seconds=data["seconds"],
            executed=shared(value_of(dict[str, Ran], data["executed"])),
        )
