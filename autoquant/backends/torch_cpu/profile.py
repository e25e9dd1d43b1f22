"""What each choice costs on this machine: a few plans, built and timed node by node."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import Tensor, nn
from torch.fx import GraphModule

from autoquant.backends.boundaries import Parts
from autoquant.backends.cover import Cover
from autoquant.backends.protocol import Backend
from autoquant.backends.timing import Clock
from autoquant.backends.torch_cpu.attribution import attribute
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.stamps import stamp, time_nodes, warm_up
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.model.graph.captured import Capture
from autoquant.model.heap import trim_heap


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """How much a profile may cost.

    Attributes:
        pairs: How often to time each plan beside the float model.
        seconds: What all pairs may take; of long calls two pairs are timed, whatever they take.
        least_plans: Mixed plans to time at least, beside the uniform ones.
        most_plans: Mixed plans to stop at, though some boundary was not seen.
        seed: Of the mixed plans.
    """

    pairs: int = 12
    seconds: float = 40.0
    least_plans: int = 12
    most_plans: int = 32
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What the timed plans say of all others.

    Attributes:
        table: Costs in milliseconds, by site.
        baseline_ms: The float model's time that they are relative to.
        measured_ms: By timed plan, its whole time.
    """

    table: CostTable
    baseline_ms: float
    measured_ms: dict[Plan, float]


def profile_costs(
    captured: Capture,
    backend: Backend,
    space: SearchSpace,
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    settings: ProfileSettings | None = None,
    clock: Clock = time.perf_counter,
) -> Profile:
    """Time a few plans node by node, and fit the cost of every op and boundary to them.

    Times nodes where they stand, in the order, the memory and the company in which a candidate
    runs them; an op alone in a loop finds its weights in the cache and its input in the layout
    it likes. The number of plans grows with the square of the schemes, not with the ops.

    Call it as latency is measured: with its threads, its batch, and freed memory kept.

    Args:
        captured: The captured model.
        backend: Of the engine; builds the plans.
        space: What may be chosen; emulated schemes would be timed as they run here.
        model: The float model as given: the rival of every candidate, timed beside the plans.
        inputs: The batch of the latency measurement.
        settings: How much to time.
        clock: Seconds. On a busy machine and with one thread, `time.thread_time` leaves out what
            other processes take.

    Raises:
        BackendError: No plan of the space can be built.
    """
    settings = settings or ProfileSettings()
    cover = Cover.of(
        captured,
        space,
        least=settings.least_plans,
        most=settings.most_plans,
        seed=settings.seed,
    )
    rival = warm_up(lambda: backend.run(model, inputs), clock)
    limit_s = settings.seconds / len(cover.plans)

    def time_plan(plan: Plan) -> tuple[Parts, tuple[float, ...]]:
        module = backend.build(plan).module
        graph = _graph_of(module)
        times, seconds = time_nodes(
            stamp(graph, clock),
            lambda stamped: backend.run(stamped, inputs),
            partial(backend.run, module, inputs),
            rival,
            pairs=settings.pairs,
            limit_s=limit_s,
            clock=clock,
        )
        trim_heap()
        return attribute(graph, times, captured), seconds

    found = cover.build(time_plan)
    rivals = [second for _, seconds in found.values() for second in seconds]
    baseline_ms = 1e3 * float(np.median(rivals))
    timed = {plan: parts.times(baseline_ms) for plan, (parts, _) in found.items()}
    return Profile(
        table=cover.fit(timed),
        baseline_ms=baseline_ms,
        measured_ms={plan: parts.total for plan, parts in timed.items()},
    )


def _graph_of(module: nn.Module) -> GraphModule:
    """The graph that a built model runs, op by op."""
    found = module.graph if isinstance(module, LoweredModel) else module
    if not isinstance(found, GraphModule):
        raise TypeError(f"a {type(found).__name__} has no nodes to time")
    return found
