"""What ops and boundaries cost on the target, timed as latency is measured."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from autoquant.core.costs import CostTable
from autoquant.core.evaluation import Phase, Task
from autoquant.core.measurement import Kind
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.errors import BackendError
from autoquant.searching.measuring.clocks import clock_of
from autoquant.searching.measuring.evaluator import (
    Calibrated,
    PlanEvaluator,
    latency_inputs,
    with_threads,
)

_MACS_PER_ELEMENT = 16
"""What reading or writing an element counts beside a multiply-accumulate, in `spread_costs`."""


def latency_costs(calibrated: Calibrated, space: SearchSpace) -> CostTable:
    """Find what ops and boundaries cost on the batch size and threads of a job.

    A backend that knows nothing finer than the time of a whole plan gets a coarse table: the
    times of its uniform plans, spread over their ops.
    """
    subject, settings, backend = calibrated.subject, calibrated.settings, calibrated.backend
    captured, inputs = calibrated.captured, latency_inputs(subject, settings.latency_batch)
    floats = Plan.uniform((site.name for site in captured.sites), Scheme.FP32)
    runs_floats = all(
        backend.support(site, Scheme.FP32) is not Support.UNSUPPORTED for site in captured.sites
    )
    with with_threads(settings.latency_threads):
        module = backend.build(floats).module if runs_floats else subject.timed
        call = partial(backend.run, module, inputs)
        table = backend.costs(space, inputs, clock_of(call, settings.latency_threads))
    if table is not None:
        return table
    evaluator = PlanEvaluator(calibrated, backend)
    times: dict[Scheme, float] = {}
    reasons: list[str] = []
    for scheme in space.schemes:
        outcome = evaluator.run(Phase.LATENCY, Task(0, space.uniform(scheme)))
        if outcome.failure is None:
            times[scheme] = outcome.measurements["latency_ms"].value
        else:
            reasons.append(outcome.failure.reason)
    if not times:
        raise BackendError(
            f"no uniform plan of the space can be timed: {reasons[0]}",
            hint="pin the op that it names to fp32 in the search space",
        )
    return spread_costs(space, captured.sites, times)


def spread_costs(
    space: SearchSpace, sites: tuple[Site, ...], times: Mapping[Scheme, float]
) -> CostTable:
    """Spread the times of uniform plans over their ops, by multiply-accumulates and elements.

    A scheme without a time counts as the slowest one that has one.
    """
    work = {
        site.name: site.macs + _MACS_PER_ELEMENT * (site.output_elements + site.parameter_count)
        for site in sites
    }
    whole = max(sum(work.values()), 1)
    slowest = max(times.values())
    ops = {
        (site, scheme): times.get(scheme, slowest) * work[site] / whole
        for knob in space.knobs
        for site in knob.sites
        for scheme in knob.schemes
    }
    return CostTable(0.0, ops, kind=Kind.ESTIMATED)
