"""What the ops of a captured graph are called."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import op_name


def type_of(model: GraphModule, names: tuple[str, ...]) -> str:
    """The functions of an op: `conv2d + relu`."""
    nodes = {node.name: node for node in model.graph.nodes if node.name in names}
    return " + ".join(_type_of(nodes[name]) for name in names)


def _type_of(node: Node) -> str:
    if node.op == "placeholder":
        return "input"
    return op_name(node) or getattr(node.target, "__name__", str(node.target))
