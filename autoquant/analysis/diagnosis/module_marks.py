"""Where a graph rounds: the ops of each site, the tensors that they write, and their readers."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.passes.shape_prop import TensorMetadata

from autoquant.core.precision import Mode, Scheme
from autoquant.core.sites import Site
from autoquant.core.space import Knob, SearchSpace
from autoquant.model.capture import Capture

_IN_PLACE_FUNCTIONS = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})


@dataclass(frozen=True, eq=False)
class MarkedGraph:
    """A captured graph with its sites marked.

    Attributes:
        module: The graph; every node that reads a tensor after an op wrote into it reads that
            op's node instead, so that no value needs to change once it is there.
        sites: By name.
        nodes: In execution order.
        roots: By node, the site whose inputs and weights are rounded there.
        writers: By node, the site whose scheme its output is rounded to: the last op of a site,
            and the ops that hand its format on.
        last_reads: By node, what it is the last to read.
        in_place: Nodes that write into their first argument.
        knob_of: Knob names by site name.
    """

    module: GraphModule
    sites: Mapping[str, Site]
    nodes: tuple[Node, ...]
    roots: Mapping[Node, Site]
    writers: Mapping[Node, Site]
    last_reads: Mapping[Node, tuple[Node, ...]]
    in_place: frozenset[Node]
    knob_of: Mapping[str, str]

    def reached(self, knob: Knob) -> tuple[Node, ...]:
        """Nodes whose value may change when the knob's scheme does, in execution order."""
        names = set(knob.sites)
        reached: dict[Node, None] = {}
        for node in self.nodes:
            site, writer = self.roots.get(node), self.writers.get(node)
            own = (site and site.name in names) or (writer and writer.name in names)
            if own or any(source in reached for source in node.all_input_nodes):
                reached[node] = None
        return tuple(reached)

    def rounded_inputs(self, node: Node, scheme: Scheme) -> tuple[Node, ...]:
        """What the site at `node` reads and rounds when its whole knob takes `scheme`.

        A tensor that the same site (or one that agrees with it) wrote is rounded already, but for
        schemes whose scales are not static.
        """
        site = self.roots[node]
        return tuple(
            source
            for source in node.all_input_nodes
            if source.op != "get_attr"
            and gives_float(source)
            and not (scheme.mode is Mode.STATIC and self.agree(self.writers.get(source), site))
        )

    def agree(self, writer: Site | None, reader: Site) -> bool:
        """Whether two sites belong to one knob."""
        return writer is not None and self.knob_of[writer.name] == self.knob_of[reader.name]


def gives_float(node: Node) -> bool:
    """Whether the node's value is one tensor of floats."""
    meta = node.meta.get("tensor_meta")
    return isinstance(meta, TensorMetadata) and meta.dtype.is_floating_point


def mark(captured: Capture, space: SearchSpace) -> MarkedGraph:
    """Mark the sites of a captured model in a copy of its graph; weights are shared."""
    graph = Graph()
    output = graph.graph_copy(captured.graph.graph, {})
    graph.output(output)
    module = GraphModule(captured.graph, graph)
    in_place = frozenset(in_place_nodes(module))
    for node in in_place:
        _redirect_later_readers(graph, node)
    sites = {site.name: site for site in captured.sites}
    nodes = {node.name: node for node in graph.nodes}
    inner = {
        name for groups in captured.members.values() for group in groups for name in group[:-1]
    }
    return MarkedGraph(
        module=module,
        sites=sites,
        nodes=tuple(graph.nodes),
        roots={
            nodes[group[0]]: sites[name]
            for name, groups in captured.members.items()
            for group in groups
        },
        writers={
            nodes[address.node]: sites[address.site]
            for address in captured.addresses
            if address.site is not None
            and address.node not in inner
            and gives_float(nodes[address.node])
        },
        last_reads=_last_reads(graph),
        in_place=in_place,
        knob_of={site: knob.name for knob in space.knobs for site in knob.sites},
    )


def _last_reads(graph: Graph) -> Mapping[Node, tuple[Node, ...]]:
    reads: dict[Node, tuple[Node, ...]] = {}
    seen: set[Node] = set()
    for node in reversed(graph.nodes):
        reads[node] = tuple(source for source in node.all_input_nodes if source not in seen)
        seen.update(node.all_input_nodes)
    return reads


def in_place_nodes(module: GraphModule) -> Iterable[Node]:
    """Nodes that write into their first argument."""
    for node in module.graph.nodes:
        if node.op == "call_module":
            called = module.get_submodule(str(node.target))
            parts = list(called.children()) if isinstance(called, nn.Sequential) else [called]
            writes = getattr(parts[0], "inplace", False)
        elif node.op == "call_method":
            name = str(node.target)
            writes = name.endswith("_") and not name.endswith("__")
        else:
            name = getattr(node.target, "__name__", "")
            writes = node.op == "call_function" and (
                node.target in _IN_PLACE_FUNCTIONS
                or node.kwargs.get("inplace") is True
                or (name.endswith("_") and not name.endswith("__"))
            )
        if writes and node.args and isinstance(node.args[0], Node):
            yield node


def _redirect_later_readers(graph: Graph, node: Node) -> None:
    """Let what reads the written tensor after `node` read `node`."""
    written = node.args[0]
    if isinstance(written, Node):
        order = {item: index for index, item in enumerate(graph.nodes)}
        written.replace_all_uses_with(
            node, delete_user_cb=lambda user: order[user] > order[node], propagate_meta=False
        )
