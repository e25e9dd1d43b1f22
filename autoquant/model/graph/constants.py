"""What depends on no input is computed once, and its computation kept."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import Argument, map_arg

from autoquant.model.graph.aten import op_name
from autoquant.model.graph.scopes import scope_of
from autoquant.model.graph.tensor_paths import put

_LARGEST = 1 << 22
"""Elements of a constant that is made of nothing, such as a mask: larger ones are made anew."""

_RANDOM = ("rand", "bernoulli", "normal", "dropout", "multinomial")


def split_constants(module: GraphModule) -> GraphModule:
    """Take what depends on no input out of a graph, in place, and give it as a module.

    A folded weight, a normed weight, a mask or a table of positions becomes a constant of the
    graph; the module that is returned computes all of them again from the model's parameters,
    so that training can follow.

    Args:
        module: From `functional_graph`; its constants are added to it.

    Returns:
        Called without arguments, it gives the new constants by their paths; differentiable.
    """
    constant = _constant_nodes(module.graph)
    kept = [
        node
        for node in module.graph.nodes
        if node in constant
        and node.op != "get_attr"
        and any(user not in constant for user in node.users)
    ]
    program = GraphModule(module, _program(module.graph, constant, kept))
    with torch.no_grad():
        values = program()
    _keep_tensors(program, values)
    for node in kept:
        path = node.meta["constant"]
        value = values[path]
        if not isinstance(value, Tensor):
            _write_number(node, value)
            continue
        put(module, path, value.detach().contiguous())
        with module.graph.inserting_before(node):
            new = module.graph.get_attr(path)
        new.meta = {key: item for key, item in node.meta.items() if key != "constant"}
        node.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()
    module.delete_all_unused_submodules()
    _drop_unused(module)
    module.recompile()
    return program


def _keep_tensors(program: GraphModule, values: Mapping[str, object]) -> None:
    """Let a program give no numbers (`scale.item()`): these are written into the graph."""
    output = program.graph.output_node()
    given: Any = output.args[0]
    output.args = ({path: given[path] for path in values if isinstance(values[path], Tensor)},)
    program.recompile()


def _write_number(node: Node, number: Argument) -> None:
    """Let the readers of a node read a number."""
    for user in list(node.users):
        user.args, user.kwargs = map_arg(
            (user.args, user.kwargs), lambda item: number if item is node else item
        )


def _constant_nodes(graph: Graph) -> dict[Node, None]:
    found: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            found[node] = None
        elif node.op == "call_function" and all(n in found for n in node.all_input_nodes):
            name = op_name(node)
            if not name and node.target is not operator.getitem:
                continue
            if name.startswith(_RANDOM) or not (node.all_input_nodes or _is_small(node)):
                continue
            found[node] = None
    return found


def _is_small(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and value.numel() <= _LARGEST


def _program(graph: Graph, constant: dict[Node, None], kept: list[Node]) -> Graph:
    """The constant part of a graph; gives each node a path of its own for its value."""
    program = Graph()
    made: dict[Node, Node] = {}
    for node in constant:
        made[node] = program.node_copy(node, lambda item: made[item])
    taken = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    results = {}
    for node in kept:
        path = _path(node, taken)
        taken.add(path)
        node.meta["constant"] = path
        results[path] = made[node]
    program.output(results)
    program.eliminate_dead_code()
    return program


def _path(node: Node, taken: set[str]) -> str:
    """Where a constant is kept: beside the op that reads it, under the name of its argument."""
    reader = next(iter(node.users))
    scope = scope_of(reader)
    names = {1: "weight", 2: "bias"} if op_name(reader).startswith(("conv", "linear")) else {}
    places = [names[i] for i, arg in enumerate(reader.args) if arg is node and i in names]
    name = f"folded_{places[0]}" if places else f"constant_{node.name}"
    path = f"{scope}.{name}" if scope else name
    number = 1
    while path in taken:
        number += 1
        path = f"{scope}.{name}_{number}" if scope else f"{name}_{number}"
    return path


def _drop_unused(module: GraphModule) -> None:
    """Forget tensors that no node reads any more."""
    read = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for path, owner in list(module.named_modules()):
        for table in (owner._parameters, owner._buffers):
            for name in list(table):
                if (f"{path}.{name}" if path else name) not in read:
                    del table[name]
