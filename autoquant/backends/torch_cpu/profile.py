"""What each choice costs on this machine: a few plans, built and timed node by node."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from autoquant.backends.boundaries import Parts, Surroundings, add_up
from autoquant.backends.cover import BesideReference, Cover, reference_ms
from autoquant.backends.protocol import Backend
from autoquant.backends.timing import Clock
from autoquant.backends.torch_cpu.lowered import LoweredModel
from autoquant.backends.torch_cpu.stamps import NodeTimes, stamp, time_nodes, warm_up
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.model.graph.built_graph import FLOAT_NODE
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners

_SIZE = torch.ops.aten.sym_size.int
"""Reads no values."""

_PAIRS = 12
_SECONDS = 40.0
"""How often each plan is timed beside the float model, and what all of it may take; of long calls
two pairs are timed, whatever they take."""


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
    clock: Clock,
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
        clock: Seconds. On a busy machine and with one thread, `time.thread_time` leaves out what
            other processes take.

    Raises:
        BackendError: No plan of the space can be built.
    """
    cover = Cover.of(captured, space)
    rival = warm_up(lambda: backend.run(model, inputs), clock)
    limit_s = _SECONDS / len(cover.plans)

    def time_plan(plan: Plan) -> BesideReference:
        module = backend.build(plan).module
        graph = _graph_of(module)
        times, seconds = time_nodes(
            stamp(graph, clock),
            lambda stamped: backend.run(stamped, inputs),
            partial(backend.run, module, inputs),
            rival,
            pairs=_PAIRS,
            limit_s=limit_s,
            clock=clock,
        )
        return attribute(graph, times, captured), seconds

    found = cover.build(time_plan)
    baseline_ms = reference_ms(found.values())
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


def attribute(model: GraphModule, times: NodeTimes, captured: Capture) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A node that the float graph has too belongs to its site. A node that conversion put in
    (quantize, dequantize, a cast, the scale that it reads) belongs to the boundary between the
    site that wrote the tensor and the one that reads it. Torch converts a tensor once for all
    readers of one format: the time is then divided evenly among their boundaries, so that an
    edge's cost is the average over what the other readers happen to need. Where one side is no
    site (the model's input or output, a pad), the time belongs to the site on the other side.
    """
    owner = find_owners(captured)
    known = {node.name for node in captured.graph.graph.nodes}
    inserted = {
        node
        for node in model.graph.nodes
        if node.op not in ("placeholder", "output") and _float_name(node) not in known
    }
    around = Surroundings[Node](
        is_inserted=inserted.__contains__,
        site=lambda node: owner.get(_float_name(node)),
        source=lambda node: next(iter(node.all_input_nodes), None),
        users=lambda node: (item for item in node.users if item.target is not _SIZE),
    )
    timed = (
        (times.nodes[node.name], around.ends(_converted_by(node, inserted)))
        for node in model.graph.nodes
        if node.name in times.nodes
    )
    return add_up(timed, times.call)


def _float_name(node: Node) -> str:
    return str(node.meta.get(FLOAT_NODE, node.name))


def _converted_by(node: Node, inserted: set[Node]) -> Node:
    """The node itself; of a scale the quantize that reads it."""
    is_scale = node in inserted and node.op == "get_attr" and node.users
    return next(iter(node.users)) if is_scale else node
