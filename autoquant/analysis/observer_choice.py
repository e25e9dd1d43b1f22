"""The observer of each site whose range does least harm at the model's outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.utils import _pytree as pytree

from autoquant.analysis.marks import MarkedGraph, gives_float, mark
from autoquant.analysis.rounding_power import powers_of_samples
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.core.space import SearchSpace
from autoquant.core.statistics import CalibrationStatistics, ObserverName
from autoquant.model.batches import Batch
from autoquant.model.capture import Capture
from autoquant.model.torch_ao.observers import ScaleCache
from autoquant.model.torch_ao.qconfig import QuantizationSettings
from autoquant.model.torch_ao.rounding import Format, SchemeRounding

CANDIDATES = tuple(item for item in ObserverName if item is not ObserverName.MIX)
_CHUNK = 16
_DRAWS = 4
_CLEARLY = 0.1
_Formats = Mapping[ObserverName, Format | None]


def choose_observers(
    captured: Capture,
    statistics: CalibrationStatistics,
    settings: QuantizationSettings,
    batches: Sequence[Batch],
    progress: Callable[[int], None] = lambda samples: None,
) -> dict[str, ObserverName]:
    """Choose each site's observer by the output error of what the site writes in int8.

    To first order: with random signs v at the outputs, g = J^T v, and E[(g . d)^2] = ||J d||^2
    for the rounding error d of a tensor (Hutchinson's estimator; Avron and Toledo, J. ACM 58(2),
    2011, section 2). The errors of one channel are summed before they are squared, so that
    clipping, which moves all of them the same way, counts with its sign; `rounding_power` has the
    equation. Tensors that share a scale count together, and inputs of the model with the first
    site that reads them.

    What it cannot see: errors so large that the network answers them nonlinearly.

    Args:
        captured: The captured model.
        statistics: Of its tensors.
        settings: What the target decides; their observers do not matter.
        batches: Calibration data to compare on.
        progress: Called after each chunk with its number of samples.

    Returns:
        By site; a site that static int8 does not round has none. `histogram` stands
        unless another has a tenth less error, since estimates on few samples are that uncertain.
    """
    marked = mark(captured, SearchSpace(()))
    cache = ScaleCache(statistics)
    owners = dict(_owners(marked, cache))
    roundings = {item: _rounding(marked, cache, settings, item) for item in CANDIDATES}
    formats: dict[Node, _Formats] = {
        node: {
            item: rounding.output_format(site, Scheme.INT8, node.name)
            for item, rounding in roundings.items()
        }
        for node, site in owners.items()
    }
    powers: dict[str, dict[ObserverName, float]] = defaultdict(lambda: defaultdict(float))
    draw = torch.Generator().manual_seed(0)
    for inputs in _chunks(batches):
        for node, value, gradients in _Backward(marked, owners).run_back(inputs, draw):
            for item, power in _powers(formats[node], value, gradients):
                powers[owners[node].name][item] += power
        progress(len(inputs[0]))
    best = {name: _best(found) for name, found in powers.items()}
    return {
        site.name: best[owners[node].name]
        for node, site in marked.writers.items()
        if node in owners and owners[node].name in best
    }


def _rounding(
    marked: MarkedGraph, cache: ScaleCache, settings: QuantizationSettings, observer: ObserverName
) -> SchemeRounding:
    ranges = replace(settings.ranges, sites=(), fixed=())
    alone = replace(settings, observer=observer, ranges=ranges)
    return SchemeRounding(marked.sites, alone, cache)


def _owners(marked: MarkedGraph, cache: ScaleCache) -> Iterator[tuple[Node, Site]]:
    """By tensor, the site whose observer decides its range."""
    by_name = {node.name: node for node in marked.nodes}
    for node in marked.nodes:
        if node in marked.writers:
            first = by_name[cache.sharing(node.name)[0]]
            yield node, marked.writers.get(first, marked.writers[node])
        elif node.op == "placeholder" and gives_float(node):
            readers = [marked.roots[user] for user in node.users if user in marked.roots]
            if readers:
                yield node, readers[0]


def _chunks(batches: Sequence[Batch]) -> Iterator[tuple[Tensor, ...]]:
    for batch in batches:
        yield from (part.inputs for part in batch.parts(_CHUNK))


def _powers(
    formats: _Formats, value: Tensor, gradients: Sequence[Tensor]
) -> Iterator[tuple[ObserverName, float]]:
    """What each observer's rounding error of a tensor does at the outputs, over samples."""
    known: dict[Format, float] = {}
    for item, how in formats.items():
        if how is None:
            continue
        if how not in known:
            powers = powers_of_samples(how, value, gradients, len(value))
            known[how] = sum(float(power.sum()) for power in powers)
        yield item, known[how]


def _best(powers: Mapping[ObserverName, float]) -> ObserverName:
    """The observer of least power; `histogram` unless it is clearly beaten."""
    best = min(CANDIDATES, key=powers.__getitem__)
    first = ObserverName.HISTOGRAM
    return best if powers[best] < (1.0 - _CLEARLY) * powers[first] else first


class _Backward(Interpreter):
    """Runs the float graph once, and back from its outputs to some of its tensors."""

    def __init__(self, marked: MarkedGraph, wanted: Mapping[Node, Site]) -> None:
        super().__init__(marked.module)
        self._marked = marked
        self._wanted = wanted
        self._values: dict[Node, Tensor] = {}

    def run_back(
        self, inputs: tuple[Tensor, ...], draw: torch.Generator
    ) -> Iterator[tuple[Node, Tensor, list[Tensor]]]:
        """Give each wanted tensor with its gradient for each draw of signs."""
        with torch.enable_grad():
            outputs = [
                leaf
                for leaf in pytree.tree_leaves(self.run(*inputs))
                if isinstance(leaf, Tensor) and leaf.requires_grad
            ]
        drawn: list[Sequence[Tensor | None]] = []
        for _ in range(_DRAWS):
            signs = [
                torch.randint(0, 2, leaf.shape, generator=draw).to(leaf.dtype) * 2 - 1
                for leaf in outputs
            ]
            drawn.append(
                torch.autograd.grad(
                    outputs,
                    list(self._values.values()),
                    signs,
                    retain_graph=True,
                    allow_unused=True,
                )
            )
        for (node, value), *gradients in zip(self._values.items(), *drawn, strict=True):
            found = [item for item in gradients if isinstance(item, Tensor)]
            yield node, value.detach(), found

    def run_node(self, n: Node) -> Any:
        """Run one node; what is wanted of it takes part in the way back."""
        written = n.args[0] if n in self._marked.in_place else None
        if isinstance(written, Node):
            self.env[written] = self.env[written].clone()
        value = super().run_node(n)
        if n in self._wanted and isinstance(value, Tensor):
            value = value if value.requires_grad else value.detach().requires_grad_()
            self._values[n] = value
        return value
