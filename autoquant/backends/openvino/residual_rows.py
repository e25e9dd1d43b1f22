"""Residual blocks of linear layers over rows, which crash the plugin's fusion of small ops."""

from __future__ import annotations

import openvino as ov

_JOINS = frozenset({"Add", "Subtract", "Multiply", "Divide", "Maximum", "Minimum"})
_LAYERS = 2
_ROWS = 2


def has_residual_rows(model: ov.Model) -> bool:
    """Whether rows meet what two linear layers made of them, `x + second(relu(first(x)))`.

    Of two such blocks behind each other, of fixed sizes and few rows, the plugin makes a subgraph
    (snippets) that crashes the process while it compiles (openvino 2026.4, tried with 1 to 8 rows).
    """
    return any(map(_meets_itself, model.get_ordered_ops()))


def _meets_itself(join: ov.Node) -> bool:
    if join.get_type_name() not in _JOINS or not _is_rows(join):
        return False
    ends = [value.get_node() for value in join.input_values()]
    names = {end.get_name() for end in ends}
    waiting, seen = [(end, 0) for end in ends], set()
    while waiting:
        op, layers = waiting.pop()
        name = op.get_name()
        if layers == _LAYERS and name in names:
            return True
        if (name, layers) in seen or not _is_rows(op):
            continue
        seen.add((name, layers))
        behind = min(layers + (op.get_type_name() == "MatMul"), _LAYERS)
        waiting += [(value.get_node(), behind) for value in op.input_values()]
    return False


def _is_rows(op: ov.Node) -> bool:
    rank = op.get_output_partial_shape(0).rank
    return bool(rank.is_static) and rank.get_length() == _ROWS
