"""Units: the nodes of the float graph that one kernel computes together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from onnx import NodeProto

from autoquant.backends.onnxruntime.float_graph import FloatGraph, consumers
from autoquant.core.sites import OpKind, Site

COMPUTING: Mapping[OpKind, frozenset[str]] = {
    OpKind.CONV1D: frozenset({"Conv"}),
    OpKind.CONV2D: frozenset({"Conv"}),
    OpKind.CONV3D: frozenset({"Conv"}),
    OpKind.CONV_TRANSPOSE1D: frozenset({"ConvTranspose"}),
    OpKind.CONV_TRANSPOSE2D: frozenset({"ConvTranspose"}),
    OpKind.CONV_TRANSPOSE3D: frozenset({"ConvTranspose"}),
    OpKind.LINEAR: frozenset({"Gemm", "MatMul"}),
    OpKind.EMBEDDING: frozenset({"Gather"}),
    OpKind.LSTM: frozenset({"LSTM"}),
    OpKind.GRU: frozenset({"GRU"}),
    OpKind.ADD: frozenset({"Add"}),
    OpKind.MUL: frozenset({"Mul"}),
    OpKind.MATMUL: frozenset({"MatMul"}),
    OpKind.CAT: frozenset({"Concat"}),
    OpKind.POOL: frozenset({"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"}),
}
"""Which nodes do a site's own work; others of its nodes shape, pad or scale. All, where absent."""

CLIPPING = frozenset({"Relu", "Clip"})
"""What a kernel does while it writes its output."""


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """Nodes that one kernel computes: a root, its bias, the clipping of its output.

    Attributes:
        nodes: In execution order; each but the last is read by the next alone.
        sites: That they compute; the root's first, then a clipping that is a site of its own.
        computes: Whether the root does its site's own work.
    """

    nodes: tuple[NodeProto, ...]
    sites: tuple[str, ...]
    computes: bool

    @property
    def root(self) -> NodeProto:
        """The node that the kernel is for."""
        return self.nodes[0]

    @property
    def site(self) -> str | None:
        """Site of the root."""
        return self.sites[0] if self.sites else None

    @property
    def output(self) -> str:
        """The tensor that it writes (the first, where it writes several)."""
        return str(self.nodes[-1].output[0])

    @property
    def clip(self) -> NodeProto | None:
        """The clipping of the output, if there is one."""
        last = self.nodes[-1]
        return last if last.op_type in CLIPPING and len(self.nodes) > 1 else None

    @property
    def bias(self) -> NodeProto | None:
        """The addition of a bias by a node of its own, if there is one."""
        follower = self.nodes[1] if len(self.nodes) > 1 else None
        return follower if follower is not None and follower.op_type == "Add" else None


def find_units(graph: FloatGraph, sites: Mapping[str, Site]) -> tuple[Unit, ...]:
    """Group the nodes of a float graph into units, in execution order."""
    return tuple(_walk(graph, sites))


def _walk(graph: FloatGraph, sites: Mapping[str, Site]) -> Iterator[Unit]:
    readers = consumers(graph.nodes)
    outputs = {tensor for tensor, _ in graph.outputs}
    taken: set[str] = set()
    working = {  # a site that is written with other nodes only: all of them do its work
        name
        for node in graph.nodes
        if (name := graph.owner.get(node.name)) is not None
        and node.op_type in COMPUTING.get(sites[name].kind, ())
    }

    def sole_reader(node: NodeProto) -> NodeProto | None:
        found = readers.get(node.output[0], [])
        private = len(node.output) == 1 and node.output[0] not in outputs
        return found[0] if private and len(found) == 1 else None

    for root in graph.nodes:
        if root.name in taken:
            continue
        name = graph.owner.get(root.name)
        nodes, members = [root], [name]
        computes = name is not None and (
            name not in working or root.op_type in COMPUTING[sites[name].kind]
        )
        follower = sole_reader(root) if computes else None
        if follower is not None and _adds_bias(graph, root, follower):
            nodes.append(follower)
            follower = sole_reader(follower)
        if (
            follower is not None
            and follower.op_type in CLIPPING
            and root.op_type not in CLIPPING
            and all(item in graph.initializers for item in follower.input[1:] if item)
        ):
            clipping = graph.owner.get(follower.name)
            if clipping == name or (clipping is not None and sites[clipping].follows == name):
                nodes.append(follower)
                members += [clipping] if clipping != name else []
        taken.update(node.name for node in nodes)
        yield Unit(tuple(nodes), tuple(item for item in members if item), computes)


def _adds_bias(graph: FloatGraph, root: NodeProto, follower: NodeProto) -> bool:
    """Whether a node adds a constant vector to the product of a linear layer."""
    if root.op_type != "MatMul" or follower.op_type != "Add":
        return False
    if graph.owner.get(follower.name) != graph.owner.get(root.name):
        return False
    constants = [graph.initializers[item] for item in follower.input if item in graph.initializers]
    weight = graph.initializers.get(root.input[1])
    return bool(constants and weight is not None and constants[0].shape == weight.shape[-1:])
