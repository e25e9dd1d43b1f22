"""One op of a captured graph in the others that compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from autoquant.model.graph.tensor_paths import take

Decompositions = Mapping[Any, Callable[..., Any]]
"""By op, a function that computes it in other ops."""

_COMPOSITE = DispatchKey.CompositeImplicitAutograd
"""The kernel of an op that torch itself writes out in others."""


def is_written_out(target: Any, table: Decompositions) -> bool:
    """Whether an op does not stay whole, by the rule of `ExportedProgram.run_decompositions`.

    Of what torch would write out, an op stays unless the table knows it, or it may hand out its
    input or write into it. A reshape stays too: engines find a size of -1 by themselves, which
    tracing counts elements for.
    """
    if not isinstance(target, OpOverload) or target is torch.ops.aten.reshape.default:
        return False
    if target in table or not target.has_kernel_for_dispatch_key(_COMPOSITE):
        return target in table
    may_alias = any(item.alias_info is not None for item in target._schema.arguments)
    return may_alias or torch.Tag.maybe_aliasing_or_mutating in target.tags


def write_out(
    node: Node, value_of: Callable[[Node], Any], table: Decompositions, mode: FakeTensorMode
) -> GraphModule:
    """Trace what computes one node: over its input nodes in their order, at any size.

    Args:
        node: A call of an op.
        value_of: What a node gives, without its numbers.
        table: What is written out in another way than torch's own.
        mode: Of those values (`mode_of`).
    """
    inputs = node.all_input_nodes
    compute: Any = table.get(node.target, without_write(node.target))

    def run(*values: Any) -> Any:
        known = dict(zip(inputs, values, strict=True))
        args, kwargs = map_arg((node.args, node.kwargs), known.__getitem__)
        return compute(*args, **kwargs)

    with torch.no_grad(), mode:
        return make_fx(run, decomposition_table=table)(*map(value_of, inputs))


def splice(
    node: Node,
    traced: GraphModule,
    made: Mapping[Node, Any],
    held: dict[str, Any],
    copy: Callable[[Node, Mapping[Node, Any]], Any],
) -> Any:
    """Write what computes one node into a new graph, where the node would stand.

    Args:
        node: The node.
        traced: From `write_out`.
        made: What stands in the new graph for the nodes that it reads: a node, or several.
        held: Tensors of the new graph by path; constants of `traced` are added.
        copy: Writes one node, given what stands for those that this one reads.

    Returns:
        What stands for the node: a node, or as many as it gives tensors.
    """
    given = iter(pytree.tree_leaves([made[item] for item in node.all_input_nodes]))
    inside: dict[Node, Any] = {}
    for inner in traced.graph.nodes:
        if inner.op == "placeholder":
            inside[inner] = next(given)
        elif inner.op != "output":
            if inner.op == "get_attr":
                value = take(traced, str(inner.target))
                inner.target = f"{node.name}_{inner.target}"
                held[inner.target] = value
            inside[inner] = copy(inner, inside)
    return map_arg(traced.graph.output_node().args[0], inside.__getitem__)


def mode_of(graph: Graph) -> FakeTensorMode:
    """The mode in which torch.export followed the model."""
    for node in graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, FakeTensor):
            return value.fake_mode
    return FakeTensorMode()


def value_of(module: GraphModule, node: Node, mode: FakeTensorMode) -> Any:
    """What a node gives, without its numbers; of a tensor of the module, as it is there."""
    value = node.meta.get("val")
    if value is None and node.op == "get_attr":
        value = take(module, str(node.target))
        value = mode.from_tensor(value) if isinstance(value, Tensor) else value
    return value


def without_write(target: Any) -> Any:
    """The op that gives what an op in place writes; the op itself where there is none.

    Overloads of one name may take other arguments: `pow_.Scalar` is `pow.Tensor_Scalar`.
    """
    if not isinstance(target, OpOverload) or not target._schema.is_mutable:
        return target
    namespace, _, name = target._schema.name.partition("::")
    plain = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if plain is None:
        return target
    names = sorted(plain.overloads(), key=lambda item: item != target._overloadname)
    overloads = (getattr(plain, item) for item in names)
    return next((item for item in overloads if _kinds(item) == _kinds(target)), target)


def _kinds(op: OpOverload) -> list[str]:
    return [str(item.type) for item in op._schema.arguments]
