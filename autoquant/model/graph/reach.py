"""How much of a model the sites hold: what no plan can change is said."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.model.graph.aten import ATEN_KINDS, CONVOLUTIONS, RECURRENT, op_name
from autoquant.model.graph.costs import macs_of
from autoquant.model.graph.node_shapes import is_float, shape_of
from autoquant.model.graph.scopes import scope_of
from autoquant.model.graph.tensor_paths import take

_MULTIPLYING = frozenset(
    {*CONVOLUTIONS, "linear", "matmul", "bmm", "mm", "einsum", "scaled_dot_product_attention"}
    | RECURRENT
)
WORTH_SAYING = 0.01
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Reach:
    """What share of a model its sites hold.

    Attributes:
        weights: Share of the elements of all float constants that inference reads.
        macs: Share of the multiply-accumulates of products, convolutions and recurrent ops.
        stored_count: Elements of all these constants, shared ones once.
        unseen: Where the largest constants lie that no site holds, the largest first.
    """

    weights: float
    macs: float
    stored_count: int
    unseen: tuple[str, ...] = ()

    def __str__(self) -> str:
        said = f"sites hold {self.weights:.1%} of the weights and {self.macs:.1%} of the MACs"
        return f"{said}; not seen: {', '.join(self.unseen)}" if self.unseen else said

    @property
    def notice(self) -> str | None:
        """What to tell the user; None where at most 1% is not seen."""
        return None if min(self.weights, self.macs) >= 1 - WORTH_SAYING else f"{self}."


def find_reach(graph: GraphModule, members: Mapping[str, Collection[Collection[str]]]) -> Reach:
    """Compare what sites read and multiply with all that there is.

    Constants that share storage count once.
    """
    inside = {name for groups in members.values() for group in groups for name in group}
    sizes: dict[int, int] = {}
    held: set[int] = set()
    where: dict[int, str] = {}
    macs = held_macs = 0
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        for arg in node.all_input_nodes:
            if arg.op != "get_attr" or not is_float(arg):
                continue
            tensor: Tensor = take(graph, str(arg.target))
            key = tensor.untyped_storage().data_ptr()
            sizes[key] = max(sizes.get(key, 0), tensor.numel())
            where.setdefault(key, f"{op_name(node)} at {scope_of(node) or 'the model itself'}")
            if node.name in inside:
                held.add(key)
        count = _macs(node)
        macs += count
        held_macs += count if node.name in inside else 0
    total = sum(sizes.values())
    left = sorted(sizes.keys() - held, key=lambda key: -sizes[key])
    large = [where[key] for key in left if sizes[key] >= WORTH_SAYING * total / _SHOWN]
    return Reach(
        weights=sum(sizes[key] for key in held) / total if total else 1.0,
        macs=held_macs / macs if macs else 1.0,
        stored_count=total,
        unseen=tuple(dict.fromkeys(large))[:_SHOWN],
    )


def _macs(node: Node) -> int:
    name = op_name(node)
    if name not in _MULTIPLYING:
        return 0
    read = node.all_input_nodes
    inputs = [shape for arg in read if arg.op != "get_attr" and (shape := shape_of(arg))]
    weights = [shape_of(arg) or () for arg in read if arg.op == "get_attr"]
    count = sum(_elements(shape) for shape in weights if len(shape) > 1)
    return macs_of(ATEN_KINDS[name], inputs, shape_of(node) or (), count)


def _elements(shape: tuple[int, ...]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found
