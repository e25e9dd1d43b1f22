"""Speed of plans over the float model, by way of the engine's fastest float plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

from autoquant.backends.targets import native_plan
from autoquant.core.measurement import FLOAT_PLAN, Measurement, fastest_float
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site
from autoquant.errors import BackendError
from autoquant.searching.measuring.clocks import Clocks
from autoquant.searching.measuring.latency import (
    FAR_SLOWER,
    FEWEST_PAIRS,
    measure_alone,
    measure_latency,
    with_sitting_error,
)

FLOAT_SCHEMES = (Scheme.FP32, Scheme.BF16)
_CHECK_AFTER = 16
"""So many plans are timed before the reference is timed against the float model once more."""
_DISAGREE = 2.0
_GLANCES = 2
_NO_DOUBT = 2.0
"""What few samples say of a plan's speed may be off by less than this factor on a whole batch."""
_CERTAIN = 3.0

Call = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """How calls are timed: as `measure_latency` takes it."""

    pairs: int
    threads: int
    clocks: Clocks


@dataclass(slots=True)
class _Reference:
    """A float plan that candidates are paired with.

    Attributes:
        call: Runs it.
        speedup: Of it over the float model as given, in this sitting.
        uses: Plans that were timed against it since that was checked.
    """

    call: Call
    speedup: Measurement
    uses: int = 0


@dataclass(frozen=True, slots=True)
class _Timed:
    """A float plan that was timed in this sitting."""

    speedup: Measurement
    latency: Measurement
    wall: Measurement


class PlanTimer:
    """Times plans against the float model.

    The eager float model is the slowest of all that is timed; so it is timed once a sitting, beside
    a fast float plan of the engine, and candidates are paired with that plan. Their speed over it
    is worth knowing by itself (`float_speedup`); times its own, it is the one over the float model.

    Args:
        call: Gives what runs a plan once on the batch; raises BackendError where it cannot.
        eager: Runs the float model once.
        timing: How calls are timed.
        plans: The engine's float plans.
        glance: The same call on a few samples.

    Attributes:
        scheme: Of the float plan that candidates are paired with; None: with the float model.
    """

    def __init__(
        self,
        call: Callable[[Plan], Call],
        eager: Call,
        timing: Timing,
        plans: Sequence[tuple[Scheme, Plan]],
        glance: Callable[[Plan], Call],
    ) -> None:
        self._call = call
        self._eager = eager
        self._timing = timing
        self._plans = dict(plans)
        self._glance = glance
        self._reference: _Reference | None = None
        self._timed: dict[str, _Timed] = {}
        self.scheme: Scheme | None = None

    def rivals(self) -> dict[str, Measurement]:
        """Time the float model and the engine's float plans; the fastest becomes the reference.

        One that is far slower than the first on a few samples is timed on those alone.
        """
        timing = self._timing
        calls: dict[Scheme, Call] = {}
        timed: dict[Scheme, _Timed] = {}
        hopeless: dict[Scheme, Measurement] = {}
        for scheme, plan in self._plans.items():
            with suppress(BackendError):
                call = self._call(plan)
                if timed:
                    known, first = next(iter(timed.items()))
                    glanced = self._far_slower(plan, self._plans[known])
                    if glanced is not None:
                        hopeless[scheme] = product(glanced, first.speedup)
                        continue
                    found = self._compare(call, calls[known])
                    speedup = product(found["speedup"], first.speedup)
                else:
                    found = self._compare_well(call)
                    eager = found["baseline_latency_ms"]
                    speedup = found["speedup"]
                calls[scheme] = call
                timed[scheme] = _Timed(speedup, found["latency_ms"], found["wall_ms"])
        if not timed:
            eager = measure_alone(
                self._eager, times=timing.pairs, threads=timing.threads, clocks=timing.clocks
            )
        known_speedups = {scheme: item.speedup for scheme, item in timed.items()} | hopeless
        speedups = {
            FLOAT_PLAN + scheme.value: with_sitting_error(item)
            for scheme, item in known_speedups.items()
        }
        self.scheme = fastest_float(speedups)
        if self.scheme is not None:
            self._reference = _Reference(calls[self.scheme], timed[self.scheme].speedup)
        self._timed = {self._plans[scheme].digest: item for scheme, item in timed.items()}
        return {"latency_ms": with_sitting_error(eager), **speedups}

    def _far_slower(self, plan: Plan, known: Plan) -> Measurement | None:
        """The speed of a plan over a known one on a few samples, where that leaves no doubt."""
        calls = self._glance(plan), self._glance(known)
        found = self._compare(*calls, fewest=_GLANCES, most=_GLANCES)["speedup"]
        return found if found.value * FAR_SLOWER * _NO_DOUBT < 1.0 else None

    def begin_sitting(self) -> None:
        """Time the reference anew before the next plan."""
        self._reference = None
        self._timed = {}

    def time(
        self, plan: Plan, call: Call, competing: Sequence[float] = ()
    ) -> dict[str, Measurement]:
        """Time a plan; a float plan that was timed in this sitting is not timed again."""
        known = self._timed.get(plan.digest)
        if known is not None:
            return _times(known.latency, known.wall, known.speedup, self._over_reference(known))
        reference = self._checked_reference()
        if reference is None:
            timed = self._compare(call, self._eager, competing)
            return _times(timed["latency_ms"], timed["wall_ms"], timed["speedup"])
        over_known = [item / reference.speedup.value for item in competing]
        timed = self._compare(call, reference.call, over_known)
        speedup = product(timed["speedup"], reference.speedup)
        return _times(timed["latency_ms"], timed["wall_ms"], speedup, timed["speedup"])

    def _over_reference(self, timed: _Timed) -> Measurement | None:
        """Speed of a float plan over the one that candidates are paired with."""
        if self._reference is None:
            return None
        return _quotient(timed.speedup, self._reference.speedup)

    def _compare(
        self,
        call: Call,
        rival: Call,
        competing: Sequence[float] = (),
        fewest: int = FEWEST_PAIRS,
        most: int | None = None,
    ) -> dict[str, Measurement]:
        timing = self._timing
        return measure_latency(
            call,
            rival,
            pairs=most or timing.pairs,
            threads=timing.threads,
            clocks=timing.clocks,
            fewest=fewest,
            decided=partial(_has_its_place, competing) if competing else None,
        )

    def _compare_well(self, call: Call) -> dict[str, Measurement]:
        """Time a float plan over the float model: what is off here is off for all that follow."""
        fewest = max(FEWEST_PAIRS, self._timing.pairs // 2)
        return self._compare(call, self._eager, fewest=fewest)

    def _checked_reference(self) -> _Reference | None:
        """The reference, its speed known in this sitting and looked at again now and then.

        Where it is no longer what it was, the machine is busy, and so is what comes next.
        """
        if self.scheme is None:
            return None
        before = self._reference
        if before is not None and before.uses < _CHECK_AFTER:
            before.uses += 1
            return before
        call = self._call(self._plans[self.scheme]) if before is None else before.call
        found = self._compare_well(call)["speedup"]
        if before is not None and differ(
            with_sitting_error(before.speedup), with_sitting_error(found)
        ):
            found = replace(found, busy=True)
        self._reference = _Reference(call, found)
        return self._reference


def differ(first: Measurement, second: Measurement) -> bool:
    """Whether two values of one thing are further apart than their errors allow."""
    error = math.hypot(relative_error(first), relative_error(second))
    return abs(math.log(first.value / second.value)) > _DISAGREE * error


def float_plans(
    sites: Iterable[Site], support: Callable[[Site, Scheme], Support]
) -> tuple[tuple[Scheme, Plan], ...]:
    """The float plans of an engine: all fp32; all bf16, where it has a kernel for some op."""
    listed = tuple(sites)
    plans = ((scheme, native_plan(scheme, listed, support)) for scheme in FLOAT_SCHEMES)
    return tuple((scheme, plan) for scheme, plan in plans if scheme.value in plan.counts())


def _has_its_place(competing: Sequence[float], found: Measurement) -> bool:
    """Whether a ratio is certainly above or below each of others."""
    error = _CERTAIN * relative_error(found)
    return all(abs(math.log(found.value / other)) > error for other in competing)


def product(first: Measurement, second: Measurement) -> Measurement:
    """Multiply two speeds, of which one is over what the other is of."""
    value = first.value * second.value
    error = math.hypot(relative_error(first), relative_error(second))
    busy = first.busy or second.busy
    return replace(first, value=value, stderr=value * error, busy=busy)


def _quotient(first: Measurement, second: Measurement) -> Measurement:
    if first is second:
        return replace(first, value=1.0, stderr=0.0)
    return product(
        first,
        replace(second, value=1.0 / second.value, stderr=relative_error(second) / second.value),
    )


def _times(
    latency: Measurement,
    wall: Measurement,
    speedup: Measurement,
    over_float: Measurement | None = None,
) -> dict[str, Measurement]:
    """What is said of a plan's time, with what a sitting differs by from another."""
    latency, speedup = with_sitting_error(latency), with_sitting_error(speedup)
    fp32_ms = latency.value * speedup.value
    return {
        "latency_ms": latency,
        "wall_ms": wall,
        "speedup": speedup,
        **({} if over_float is None else {"float_speedup": with_sitting_error(over_float)}),
        "fp32_latency_ms": replace(
            speedup, value=fp32_ms, stderr=fp32_ms * relative_error(speedup)
        ),
    }


def relative_error(found: Measurement) -> float:
    """The standard error as a share of the value."""
    return (found.stderr or 0.0) / found.value
