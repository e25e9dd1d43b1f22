"""What each choice costs: a few plans, timed whole, and divided as the engine's profiler says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor

from autoquant.backends.boundaries import Parts, Surroundings, add_up
from autoquant.backends.cover import BesideReference, Cover
from autoquant.backends.onnxruntime.float_graph import consumers
from autoquant.backends.onnxruntime.plan_model import PlanModel
from autoquant.backends.onnxruntime.readback import source_name
from autoquant.backends.onnxruntime.sessions import open_and_dump, open_session
from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.timing import Clock, bundle_size, seconds_of
from autoquant.core.costs import CostTable
from autoquant.core.plan import Plan
from autoquant.core.space import SearchSpace
from autoquant.model.heap import free_large

if TYPE_CHECKING:
    from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend

_ROUNDS = 5
_SHORTEST_S = 5e-3


def profile_costs(
    source: OnnxRuntimeBackend,
    space: SearchSpace,
    inputs: tuple[Tensor, ...],
    clock: Clock,
) -> CostTable:
    """Time a few plans, and fit the cost of every op and boundary to them.

    Each plan is timed whole, as a user calls it, in turn with the first one; the profiler, which
    slows a session down, only says how to divide that among the nodes. No more than two plans are
    held at once. Call it as latency is measured: with its threads and its batch.

    Raises:
        BackendError: No plan of the space can be built.
    """
    cover = Cover.of(source.captured, space)
    passing = source.passing()
    reference: list[Callable[[], object]] = []

    def time_plan(plan: Plan) -> BesideReference:
        model = source.write(plan)
        session, dump = open_and_dump(model, torch.get_num_threads())
        call = partial(session.run, session.feed(inputs))
        del session
        if not reference:
            reference.append(call)
        seconds, ratio, calls = _in_turn(call, reference[0], clock)
        del call
        free_large(source.captured.float_bytes)
        profiled = ProfiledSession(model, inputs)
        for _ in range(calls):
            profiled.call()
        parts = attribute(dump, profiled.finish(), source.units, passing)
        del profiled
        return parts.times(ratio / max(parts.total, 1e-9)), seconds

    return cover.fit_beside(cover.build(time_plan))


def _in_turn(
    call: Callable[[], object], reference: Callable[[], object], clock: Clock
) -> tuple[tuple[float, ...], float, int]:
    """Seconds of the reference, those of a call over it in the median of rounds, and the calls."""
    bundles = [
        bundle_size(partial(seconds_of, item, 1, clock), _SHORTEST_S) for item in (reference, call)
    ]
    references, ratios = [], []
    for _ in range(_ROUNDS):
        references.append(seconds_of(reference, bundles[0], clock))
        ratios.append(seconds_of(call, bundles[1], clock) / references[-1])
    return tuple(references), float(np.median(ratios)), _ROUNDS * bundles[1]


def attribute(
    model: ModelProto,
    times: Mapping[str, float],
    units: Iterable[Unit],
    passing: Mapping[str, str],
) -> Parts:
    """Give each node's time to the site or the boundary that it belongs to.

    A node of the float graph belongs to its site. What was put in (quantize, dequantize, a cast,
    a change of layout) belongs to the boundary between the site that wrote the tensor and those
    that read it, evenly among these; where one side is no site, to the site on the other side.
    """
    owner = {node.name: unit.site for unit in units for node in unit.nodes if unit.site}
    owner |= {name: site for name, site in passing.items() if name not in owner}
    graph = _Graph(model, owner)
    around = Surroundings[NodeProto](
        lambda node: graph.site(node) is None, graph.site, graph.source, graph.users
    )
    return add_up((times.get(node.name, 0.0), around.ends(node)) for node in model.graph.node)


class _Graph:
    """The sites of a written model, and who reads whom."""

    def __init__(self, model: ModelProto, owner: Mapping[str, str]) -> None:
        self._owner = owner
        self._writer = {name: node for node in model.graph.node for name in node.output}
        self._readers = consumers(model.graph.node)

    def site(self, node: NodeProto) -> str | None:
        """The site that a node computes, by its name or its tensors'."""
        names = map(source_name, (node.name, *node.output))
        return next((self._owner[name] for name in names if name in self._owner), None)

    def source(self, node: NodeProto) -> NodeProto | None:
        """The node that gives what a node reads."""
        return self._writer.get(node.input[0]) if node.input else None

    def users(self, node: NodeProto) -> Iterator[NodeProto]:
        """Those that read what a node gives."""
        for name in node.output:
            yield from self._readers.get(name, ())


_KERNEL = "_kernel_time"
_WARM_UP = 2


class ProfiledSession:
    """A session that times its nodes, on the same inputs at every call.

    Raises:
        BackendError: ONNX Runtime refuses the model.
    """

    def __init__(self, model: PlanModel, inputs: tuple[Tensor, ...]) -> None:
        self._folder = TemporaryDirectory(prefix="autoquant-")
        stem = Path(self._folder.name) / "profile"
        self._session = open_session(model, torch.get_num_threads(), profile=stem)
        self._feed = self._session.feed(inputs)
        for _ in range(_WARM_UP):
            self.call()

    def call(self) -> None:
        """Run the model once."""
        self._session.run(self._feed)

    def finish(self) -> Mapping[str, float]:
        """Close the session, and give the least milliseconds of each node that has a name.

        The profiler's clock runs on while other processes have the core: the least is the node's.
        """
        path = Path(self._session.engine.end_profiling())
        events = json.loads(path.read_text(encoding="utf-8"))
        self._folder.cleanup()
        found: dict[str, list[float]] = defaultdict(list)
        for event in events:
            name = str(event.get("name", ""))
            if event.get("cat") == "Node" and name.endswith(_KERNEL):
                found[name.removesuffix(_KERNEL)].append(float(event["dur"]) / 1000.0)
        return {
            name: min(times[_WARM_UP:])
            for name, times in found.items()
            if name and len(times) > _WARM_UP
        }
