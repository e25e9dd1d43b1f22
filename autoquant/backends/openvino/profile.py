"""What each choice costs here: a few plans, timed node by node by the engine's own counters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import openvino as ov
from torch import Tensor

from autoquant.backends.boundaries import Parts, Surroundings, add_up
from autoquant.backends.cover import BesideReference, Cover
from autoquant.backends.openvino.engine import infer
from autoquant.backends.openvino.readback import ExecutionGraph
from autoquant.backends.timing import Clock, Floats, bundle_size
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.model.graph.captured import Capture

Compile = Callable[[Plan], tuple[ov.CompiledModel, ExecutionGraph]]

_ROUNDS = 5
_SHORTEST_S = 4e-3


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """A plan, compiled so that the engine times its nodes.

    Attributes:
        calls: So many make one timing.
    """

    graph: ExecutionGraph
    request: ov.InferRequest
    names: tuple[str, ...]
    calls: int = 1


def profile_costs(
    captured: Capture,
    compile_plan: Compile,
    space: SearchSpace,
    inputs: tuple[Tensor, ...],
    clock: Clock,
) -> CostTable:
    """Time a few plans node by node, and fit the cost of every op and boundary to them.

    Each plan is run in turn with the first, and its times are divided by those beside them, so that
    a drift of the machine's speed cancels. No more than two plans are held at once.

    Raises:
        BackendError: No plan of the space can be built.
    """
    cover = Cover.of(captured, space)
    arrays = [item.detach().contiguous().numpy() for item in inputs]
    reference: list[_Counted] = []

    def time_plan(plan: Plan) -> BesideReference:
        compiled, graph = compile_plan(plan)
        names = tuple(node.get_friendly_name() for node in graph.nodes)
        counted = _bundled(_Counted(graph, compiled.create_infer_request(), names), arrays, clock)
        if not reference:
            reference.append(counted)
        return _in_turn(counted, reference[0], arrays, clock)

    return cover.fit_beside(cover.build(time_plan))


def _in_turn(
    item: _Counted, reference: _Counted, arrays: Sequence[object], clock: Clock
) -> BesideReference:
    """Where the time of a plan goes, as shares of the first plan's.

    The clock tells what a call takes, the engine's counters only how to divide it: they count wall
    time, and on a busy machine what others took. A node is short and mostly undisturbed, so its
    median over all calls holds.
    """
    references: list[float] = []
    ratios: list[float] = []
    nodes: list[Floats] = []
    for _ in range(_ROUNDS):
        seconds, _ = _sample(reference, arrays, reference.calls, clock)
        own, found = _sample(item, arrays, item.calls, clock)
        references.append(seconds)
        ratios.append(own / seconds)
        nodes.extend(found)
    times = _divide(float(np.median(ratios)), np.array(nodes) / np.median(references))
    return _parts(item, times), tuple(references)


def _divide(whole: float, nodes: Floats) -> Floats:
    """Divide a call among its nodes, (calls, nodes), and the rest."""
    each = np.median(nodes, axis=0)
    total = float(each.sum())
    if total > whole:
        each *= whole / total
    return np.append(each, max(whole - total, 0.0))


def _bundled(item: _Counted, arrays: Sequence[object], clock: Clock) -> _Counted:
    """Warm a plan up, and count how many of its calls make one timing."""
    calls = bundle_size(lambda: _sample(item, arrays, 1, clock)[0], _SHORTEST_S)
    return replace(item, calls=calls)


def _sample(
    item: _Counted, arrays: Sequence[object], count: int, clock: Clock
) -> tuple[float, list[Floats]]:
    """Seconds of a call, in the mean over a bundle; and those of each node, by call."""
    place = {name: index for index, name in enumerate(item.names)}
    seconds, found = 0.0, []
    for _ in range(count):
        started = clock()
        infer(item.request, arrays)
        seconds += clock() - started
        nodes = np.zeros(len(item.names))
        for counter in item.request.get_profiling_info():
            if counter.node_name in place:
                nodes[place[counter.node_name]] += counter.real_time.total_seconds()
        found.append(nodes)
    return seconds / count, found


def _parts(item: _Counted, found: Floats) -> Parts:
    times: Mapping[str, float] = dict(zip(item.names, found[:-1].tolist(), strict=True))
    return attribute(item.graph, times, float(found[-1]))


def attribute(graph: ExecutionGraph, times: Mapping[str, float], rest: float) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A kernel belongs to the first of the sites that it computes; what it absorbed costs nothing
    of its own. A node that no op of the float graph gave its name (a quantizer, a reordering, a
    conversion) belongs to the boundary between the site that wrote the tensor and those that
    read it, evenly. Where one side is no site, the time belongs to the other.
    """
    around = Surroundings(graph.is_inserted, graph.owner, _source, _users)
    timed = ((times.get(node.get_friendly_name(), 0.0), node) for node in graph.nodes)
    return add_up(((time, around.ends(node)) for time, node in timed if time > 0.0), rest)


def _source(node: ov.Node) -> ov.Node | None:
    return node.input_value(0).get_node() if node.get_input_size() else None


def _users(node: ov.Node) -> Iterator[ov.Node]:
    for output in node.outputs():
        yield from (target.get_node() for target in output.get_target_inputs())
