"""The time of every node of a built model, in place: its own code, with the clock read between."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

Clock = Callable[[], float]
Floats = npt.NDArray[np.float64]

_SHORTEST_S = 2e-3
_PAIRS = 4
_LONG_S = 20.0
"""No further round begins after this: the shares of long calls are steady from the first on."""
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
    """Where the time of one model goes.

    Attributes:
        nodes: By node name, milliseconds.
        call_ms: The whole call less its nodes: entering the module, giving its tensors back.
    """

    nodes: Mapping[str, float]
    call_ms: float

    @property
    def total_ms(self) -> float:
        """The whole call."""
        return self.call_ms + sum(self.nodes.values())


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


def time_nodes(
    models: Sequence[StampedModel],
    run: Callable[[GraphModule], Any],
    baseline: Callable[[], object],
    *,
    rounds: int,
    clock: Clock,
) -> tuple[tuple[NodeTimes, ...], float]:
    """Time the nodes of several models, each in turn with the float model, round after round.

    The turns are those of the latency measurement: pairs that swap their order, so that what is
    found in the cache is the same, and short calls in bundles. Every time is divided by that of
    its pair's baseline, so that a drift of the machine's speed cancels. A node's time is its
    median over all pairs; a model's nodes are then scaled together so that they sum to the
    median of the whole, because the medians of skewed times sum to less.

    Args:
        models: From `stamp`.
        run: Runs a module on the inputs, in the engine of the latency measurement.
        baseline: Runs the float model once.
        rounds: How many, of 4 pairs for each model; fewer of long calls.
        clock: The clock that the models were stamped with; seconds.

    Returns:
        One for each model; and the baseline's time, in milliseconds, that they are relative to.
    """
    calls = [_stamped_call(model, run, clock) for model in models]
    counts = [_bundle(call, clock) for call in calls]
    baseline_count = _bundle(baseline, clock)
    samples: list[list[Floats]] = [[] for _ in models]
    baselines: list[float] = []

    def time_baseline() -> float:
        started = clock()
        for _ in range(baseline_count):
            baseline()
        return (clock() - started) / baseline_count

    begun = clock()
    for done in range(rounds):
        if done and clock() - begun > _LONG_S:
            break
        for kept, call, count in zip(samples, calls, counts, strict=True):
            for pair in range(_PAIRS):
                if pair % 2:
                    rival = time_baseline()
                parts = np.mean([call() for _ in range(count)], axis=0)
                if not pair % 2:
                    rival = time_baseline()
                kept.append(parts / rival)
                baselines.append(rival)
    reference_ms = 1e3 * float(np.median(baselines))
    found = []
    for model, kept in zip(models, samples, strict=True):
        *nodes, rest = (reference_ms * _summary(np.array(kept))).tolist()
        found.append(NodeTimes(dict(zip(model.nodes, nodes, strict=True)), rest))
    return tuple(found), reference_ms


def time_wholes(
    calls: Sequence[Callable[[], object]],
    baseline: Callable[[], object],
    baseline_ms: float,
    *,
    rounds: int,
    clock: Clock,
) -> tuple[float, ...]:
    """Time models as they are handed out, in milliseconds, relative to the same baseline.

    Args:
        calls: Each runs one model once.
        baseline: Runs the float model once.
        baseline_ms: What `time_nodes` found that it takes.
        rounds: How many, of 4 pairs for each model.
        clock: Seconds.
    """
    counts = [_bundle(call, clock) for call in calls]
    baseline_count = _bundle(baseline, clock)

    def time_one(call: Callable[[], object], count: int) -> float:
        started = clock()
        for _ in range(count):
            call()
        return (clock() - started) / count

    ratios: list[list[float]] = [[] for _ in calls]
    begun = clock()
    for done in range(rounds * _PAIRS):
        if done >= _PAIRS and clock() - begun > _LONG_S:
            break
        for kept, call, count in zip(ratios, calls, counts, strict=True):
            own = time_one(call, count)
            kept.append(own / max(time_one(baseline, baseline_count), 1e-12))
    return tuple(baseline_ms * float(np.median(kept)) for kept in ratios)


def fit_to_whole(times: NodeTimes, whole_ms: float) -> NodeTimes:
    """Make the times of nodes sum to the time of the model as it is handed out.

    Run node by node, each pays Python for its call, frozen TorchScript does not: the difference
    is taken off all nodes alike, from none more than nine tenths. What remains is scaled.

    Args:
        times: Of nodes that ran one by one.
        whole_ms: Of the whole model.
    """
    nodes = dict(times.nodes)
    spare = max(times.total_ms - whole_ms, 0.0) / max(len(nodes) + 1, 1)
    less = {name: max(item - spare, 0.1 * item) for name, item in nodes.items()}
    rest = max(times.call_ms - spare, 0.1 * times.call_ms)
    total = sum(less.values()) + rest
    factor = whole_ms / total if total > 0.0 else 1.0
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


def _summary(samples: Floats) -> Floats:
    """Medians over the rounds, scaled to sum to the median of the sums."""
    medians = np.median(samples, axis=0)
    total = float(medians.sum())
    whole = float(np.median(samples.sum(axis=1)))
    summary: Floats = medians * (whole / total) if total > 0.0 else medians
    return summary


def _bundle(function: Callable[[], object], clock: Clock) -> int:
    """How many calls make one timing long enough; calls twice, to warm up."""
    function()
    started = clock()
    function()
    return max(1, math.ceil(_SHORTEST_S / max(clock() - started, 1e-6)))
