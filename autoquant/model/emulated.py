"""A plan by reference numerics: its graph in float, every tensor rounded where it is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme
from autoquant.core.sites import Site
from autoquant.model.captured import Capture
from autoquant.model.node_shapes import is_float
from autoquant.model.ranges.grid import Grid
from autoquant.model.same_values import value_sources
from autoquant.model.site_walk import weights_of
from autoquant.model.straight_through import straight_through
from autoquant.model.torch_ao.rounding import Format, SchemeRounding

See = Callable[[Node, Any], Any]
"""Shown a node and its value; gives the value that readers see."""


class EmulatedRun(Interpreter):
    """Computes a plan by reference numerics.

    Each op runs in float on rounded inputs and weights. Its result is handed out as it is, but for
    half floats, which are what their ops write. Gradients pass roundings straight through.

    Args:
        captured: The captured float model; it must have a graph.
        plan: A scheme for every site.
        rounding: How schemes round.
    """

    def __init__(self, captured: Capture, plan: Plan, rounding: SchemeRounding) -> None:
        super().__init__(captured.graph)
        self._reads: dict[Node, Mapping[Node, Format]] = {}
        self._writes: dict[Node, Format] = {}
        self._constants: Mapping[str, Tensor] = {}
        self._rounded: dict[tuple[Node, Format], Any] = {}
        self._see: See = lambda _, value: value
        nodes = {node.name: node for node in captured.graph.graph.nodes}
        sources = value_sources(captured.graph)
        for site in captured.sites:
            if plan[site.name] is Scheme.FP32:
                continue
            for group in captured.members[site.name]:
                root, last = nodes[group[0]], nodes[group[-1]]
                self._reads[root] = dict(_formats(root, site, plan[site.name], rounding, sources))
                if plan[site.name].activation.is_float:
                    written = rounding.output_format(site, plan[site.name], last.name)
                    if written is not None:
                        self._writes[last] = written

    def compute(
        self,
        inputs: tuple[Tensor, ...],
        constants: Mapping[str, Tensor] | None = None,
        see: See = lambda _, value: value,
    ) -> Any:
        """Compute the model's outputs.

        Args:
            inputs: The tensors of one batch.
            constants: By path, what stands in the place of the graph's own tensors.
            see: Shown every op's value; what it gives is what readers see.
        """
        self._constants = constants or {}
        self._see = see
        try:
            return self.run(*inputs)
        finally:
            self._rounded.clear()

    def run_node(self, n: Node) -> Any:
        """Run one node on what it reads."""
        if n.op == "get_attr" and str(n.target) in self._constants:
            return self._constants[str(n.target)]
        if n.op in ("placeholder", "output"):
            return super().run_node(n)
        formats = self._reads.get(n, {})
        args, kwargs = map_arg(
            (n.args, n.kwargs), lambda source: self._read(source, formats.get(source))
        )
        value = getattr(self, n.op)(n.target, args, kwargs)
        if n in self._writes:
            value = _round_all(self._writes[n], value)
        return self._see(n, value)

    def _read(self, source: Node, rounding: Format | None) -> Any:
        value = self.env[source]
        if rounding is None:
            return value
        key = (source, rounding)
        if key not in self._rounded:
            self._rounded[key] = _round_all(rounding, value)
        return self._rounded[key]


class EmulatedPlan(nn.Module):
    """A plan by reference numerics, as a module.

    Args:
        run: Computes it.
    """

    def __init__(self, run: EmulatedRun) -> None:
        super().__init__()
        self._run = run

    def forward(self, *inputs: Tensor) -> Any:
        """Compute the model's outputs from the tensors of a batch."""
        return self._run.compute(inputs)


def round_straight(rounding: Format, value: Tensor) -> Tensor:
    """Round with the straight-through gradient; a fixed grid passes none where it clips."""
    if isinstance(rounding, Grid):
        half = rounding.scale / 2
        return straight_through(value, rounding, (rounding.lowest - half, rounding.highest + half))
    return straight_through(value, rounding)


def _formats(
    root: Node,
    site: Site,
    scheme: Scheme,
    rounding: SchemeRounding,
    sources: Mapping[str, str],
) -> list[tuple[Node, Format]]:
    """How a call reads each of its float tensors."""
    weights = weights_of(root) if site.kind.is_weighted else ()
    found: list[tuple[Node, Format]] = []
    for source in root.all_input_nodes:
        if not is_float(source):
            continue
        if source in weights or (source.op == "get_attr" and scheme is Scheme.BF16):
            chosen = rounding.weight_format(site, scheme)
        elif source.op == "get_attr":
            continue
        else:
            tensor = sources.get(source.name, source.name)
            chosen = rounding.input_format(site, scheme, tensor)
        if chosen is not None:
            found.append((source, chosen))
    return found


def _round_all(rounding: Format, value: Any) -> Any:
    """Round a tensor, or all that an op gives."""

    def one(item: Any) -> Any:
        rounds = isinstance(item, Tensor) and item.is_floating_point()
        return round_straight(rounding, item) if rounds else item

    return pytree.tree_map(one, value)
