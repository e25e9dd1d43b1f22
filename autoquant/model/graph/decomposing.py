"""A captured graph in other ops: each op that a table knows is written out where it stands."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg
from torch.fx.passes.shape_prop import _extract_tensor_metadata
from torch.utils import _pytree as pytree

from autoquant.model.graph.composites import (
    Decompositions,
    is_written_out,
    mode_of,
    splice,
    value_of,
    without_write,
    write_out,
)
from autoquant.model.graph.exported import mark_origin
from autoquant.model.graph.tensor_paths import as_root, take


def decompose(module: GraphModule, table: Decompositions) -> GraphModule:
    """Write a captured graph in the ops of an engine.

    The same as `ExportedProgram.run_decompositions` of that graph, which traces all of it again
    and takes seconds: here an op that stays is only copied. Every node is marked with the node of
    the captured graph that it comes from (`origins`).

    Args:
        module: The graph of a `Capture` by torch.export; not changed.
        table: By op, a function that computes it in other ops. An op of the graph that torch
            itself would write out stays whole without an entry, unless it may hand out its
            input or write into it.

    Returns:
        Tensors in, a tuple of the output tensors out; over the same weights.
    """
    writer = _Writer(module, table)
    for node in module.graph.nodes:
        writer.write(node)
    return GraphModule(as_root(writer.held), writer.graph)


class _Writer:
    def __init__(self, module: GraphModule, table: Decompositions) -> None:
        self.graph = Graph()
        self.held: dict[str, Any] = {}
        self._module = module
        self._table = table
        self._made: dict[Node, Any] = {}
        self._values: dict[Node, Any] = {}
        self._mode = mode_of(module.graph)

    def write(self, node: Node) -> None:
        """Write one node."""
        if node.op == "output":
            found = [item for item in pytree.tree_leaves(node.args[0]) if isinstance(item, Node)]
            tensors = [item for item in found if isinstance(self._value(item), Tensor)]
            self.graph.output(tuple(self._made[item] for item in tensors))
            return
        if node.op == "get_attr":
            self.held[str(node.target)] = take(self._module, str(node.target))
        given: Any = map_arg(node.args, self._made.__getitem__)
        if node.target is operator.getitem and isinstance(given[0], (tuple, list)):
            self._made[node] = given[0][given[1]]
        elif is_written_out(node.target, self._table):
            self._made[node] = splice(
                node,
                write_out(node, self._value, self._table, self._mode),
                self._made,
                self.held,
                lambda inner, made: self._copied(inner, made, node, inner.meta.get("val")),
            )
        else:
            self._made[node] = self._copied(node, self._made, node, self._value(node))

    def _copied(self, node: Node, made: Mapping[Node, Any], origin: Node, value: Any) -> Node:
        """Copy a node, with what it gives at any size in place of the example's."""
        copied = self.graph.node_copy(node, made.__getitem__)
        copied.target = copied.name if node.op == "placeholder" else without_write(copied.target)
        copied.meta = {**origin.meta, "val": value}
        copied.meta.pop("tensor_meta", None)
        if isinstance(value, Tensor):
            copied.meta["tensor_meta"] = _extract_tensor_metadata(value)
        mark_origin(copied, origin)
        return copied

    def _value(self, node: Node) -> Any:
        """What a node gives, without its numbers."""
        if node not in self._values:
            self._values[node] = value_of(self._module, node, self._mode)
        return self._values[node]
