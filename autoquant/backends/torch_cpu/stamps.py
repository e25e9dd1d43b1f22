"""The time of every node of a built model, in place: its own code, with the clock read between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from autoquant.backends.timing import Clock, Floats, bundle_size, median_parts, seconds_of

_SHORTEST_S = 2e-3
_FEWEST_PAIRS = 2
_STAMPS_BEFORE = 2
"""One before the first node, and one more: between the two lies what a stamp itself costs."""


@dataclass(frozen=True, slots=True, eq=False)
class StampedModel:
    """A built model that reads the clock after each of its nodes.

    Attributes:
        module: Gives the model's output and its stamps, in seconds.
        nodes: Names of the nodes, in the order of the stamps.
    """

    module: GraphModule
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class NodeTimes:
    """Where the time of one model goes, in one unit.

    Attributes:
        nodes: By node name.
        call: The whole call less its nodes: entering the module, giving its tensors back.
    """

    nodes: Mapping[str, float]
    call: float

    @property
    def total(self) -> float:
        """The whole call."""
        return self.call + sum(self.nodes.values())


def stamp(model: GraphModule, clock: Clock) -> StampedModel:
    """Copy a model's graph, with a reading of the clock after every node.

    The copy shares the model's modules and is compiled by torch.fx as the model was, so that its
    nodes run under the same Python code as they do in the model.
    """
    graph = Graph()
    copies: dict[Node, Node] = {}
    stamps: list[Node] = []
    names: list[str] = []
    for node in model.graph.nodes:
        if node.op == "output":
            (result,) = node.args
            graph.output((map_arg(result, copies.__getitem__), tuple(stamps)))
            break
        if node.op != "placeholder" and not stamps:
            stamps = [graph.call_function(clock) for _ in range(_STAMPS_BEFORE)]
        copies[node] = graph.node_copy(node, copies.__getitem__)
        if node.op != "placeholder":
            stamps.append(graph.call_function(clock))
            names.append(node.name)
    return StampedModel(GraphModule(model, graph), tuple(names))


def warm_up(function: Callable[[], object], clock: Clock) -> Callable[[], float]:
    """Warm a function up; give what times one call of it, in seconds. Short calls are bundled."""
    count = bundle_size(lambda: seconds_of(function, 1, clock), _SHORTEST_S)
    return lambda: seconds_of(function, count, clock)


def time_nodes(
    model: StampedModel,
    run: Callable[[GraphModule], Any],
    whole: Callable[[], object],
    rival: Callable[[], float],
    *,
    pairs: int,
    limit_s: float,
    clock: Clock,
) -> tuple[NodeTimes, tuple[float, ...]]:
    """Time the nodes of a model, and the model as it is handed out, in turn with the float model.

    The turns are those of the latency measurement: pairs that swap their order, so that what is
    found in the cache is the same, and short calls in bundles. Every time is divided by that of
    its pair's float model, so that a drift of the machine's speed cancels. A node's time is its
    median over all pairs; the nodes are then scaled together so that they sum to the median of
    the whole, because the medians of skewed times sum to less.

    Args:
        model: From `stamp`.
        run: Runs a module on the inputs, in the engine of the latency measurement.
        whole: Runs the model as it is handed out, once.
        rival: Gives the seconds of one call of the float model, from `warm_up`.
        pairs: How many to time.
        limit_s: After two pairs and so many seconds no further pair begins.
        clock: The clock that the model was stamped with; seconds.

    Returns:
        Times in calls of the float model; and the seconds of those calls.
    """
    call = _stamped_call(model, run, clock)
    count = bundle_size(lambda: float(call().sum()), _SHORTEST_S)
    time_whole = warm_up(whole, clock)
    nodes: list[Floats] = []
    wholes: list[float] = []
    rivals: list[float] = []

    def time_parts() -> Floats:
        parts: Floats = np.mean([call() for _ in range(count)], axis=0)
        return parts

    begun = clock()
    for pair in range(pairs):
        if pair >= _FEWEST_PAIRS and clock() - begun > limit_s:
            break
        if pair % 2:
            own, reference = time_whole(), rival()
            parts = time_parts()
        else:
            parts, reference = time_parts(), rival()
            own = time_whole()
        nodes.append(parts / reference)
        wholes.append(own / reference)
        rivals.append(reference)
    *found, rest = median_parts(np.array(nodes)).tolist()
    times = NodeTimes(dict(zip(model.nodes, found, strict=True)), rest)
    return _fit_to_whole(times, float(np.median(wholes))), tuple(rivals)


def _fit_to_whole(times: NodeTimes, whole: float) -> NodeTimes:
    """Make the times of nodes sum to the time of the model as it is handed out.

    Run node by node, each pays Python for its call, frozen TorchScript does not: the difference
    is taken off all nodes alike, from none more than nine tenths. What remains is scaled.
    """
    nodes = dict(times.nodes)
    spare = max(times.total - whole, 0.0) / max(len(nodes) + 1, 1)
    less = {name: max(item - spare, 0.1 * item) for name, item in nodes.items()}
    rest = max(times.call - spare, 0.1 * times.call)
    total = sum(less.values()) + rest
    factor = whole / total if total > 0.0 else 1.0
    return NodeTimes({name: factor * item for name, item in less.items()}, factor * rest)


def _stamped_call(
    model: StampedModel, run: Callable[[GraphModule], Any], clock: Clock
) -> Callable[[], Floats]:
    """A function that runs the model and gives the seconds of each node, and of the rest."""

    def call() -> Floats:
        started = clock()
        result = run(model.module)
        stamps = np.array(result[1])
        del result
        whole = clock() - started
        parts = np.diff(stamps)
        own, nodes = parts[0], parts[1:]
        nodes = np.maximum(nodes - own, 0.0)
        rest = whole - (stamps[-1] - stamps[0]) - own
        return np.append(nodes, max(rest, 0.0))

    return call
