"""Which ops of the converted graph belong to which site."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import openvino as ov

from autoquant.backends.openvino.graph import FloatGraph
from autoquant.core.sites import Site
from autoquant.model.graph.captured import Capture
from autoquant.model.graph.site_nodes import find_owners

KEEPING = frozenset(
    {
        "Reshape",
        "Squeeze",
        "Unsqueeze",
        "Transpose",
        "Slice",
        "StridedSlice",
        "Pad",
        "Broadcast",
        "VariadicSplit",
        "Split",
    }
)
"""Ops that move values and change none (but for zeros that pad)."""

QUANTIZER = "quantize_"
"""How the friendly names of inserted quantizers begin."""

_SCALING = frozenset({"Add", "Subtract", "Multiply", "Divide"})
_SHAPES = frozenset({"Constant", "Result", "Parameter", "ShapeOf", "Convert"})


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The ops of a graph by site.

    Attributes:
        sites: By name.
        owner: By friendly name of an op, the site whose format it has; ops of no site lack.
        known: Friendly names of all ops that come from the captured graph.
        computing: By site, friendly names of the ops that compute it, in graph order: those of
            its own nodes, without what only moves values or depends on shapes alone.
        types: By friendly name, the type of every op.
        readers: By friendly name, the ops that read what an op gives.
        integers: Friendly names of inputs and ops that give integers or booleans in any precision.
    """

    sites: Mapping[str, Site]
    owner: Mapping[str, str]
    known: frozenset[str]
    computing: Mapping[str, tuple[str, ...]]
    types: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]
    integers: frozenset[str]


def lay_out(graph: FloatGraph, captured: Capture) -> Layout:
    """Find each op's site."""
    format_of = find_owners(captured)
    member_of = captured.site_of
    owner: dict[str, str] = {}
    known: set[str] = set()
    computing: dict[str, list[str]] = defaultdict(list)
    nodes = graph.model.get_ordered_ops()
    dependent = _dependent(nodes)
    for node in nodes:
        name = node.get_friendly_name()
        origin = graph.captured_node(name)
        if origin is None or node.get_type_name() in _SHAPES:
            continue
        known.add(name)
        site = member_of.get(origin) or format_of.get(origin) or _scaled_site(node, owner)
        if site is None:
            continue
        owner[name] = site
        moves = node.get_type_name() in KEEPING or not _gives_floats(node)
        if origin in member_of and name in dependent and not moves:
            computing[site].append(name)
    return Layout(
        captured.by_name,
        owner,
        frozenset(known),
        {site: tuple(names) for site, names in computing.items()},
        {node.get_friendly_name(): node.get_type_name() for node in nodes},
        {node.get_friendly_name(): _readers(node) for node in nodes},
        frozenset(node.get_friendly_name() for node in nodes if not _gives_floats(node)),
    )


def _gives_floats(node: ov.Node) -> bool:
    """Not what makes a mask or an index beside the values."""
    return node.get_output_size() > 0 and bool(node.get_output_element_type(0).is_real())


def _scaled_site(node: ov.Node, owner: Mapping[str, str]) -> str | None:
    """The site whose output an op scales or shifts by a constant, alone to read it.

    The kernel of that site absorbs the op; where the two differ in precision, the plugin crashes.
    """
    if node.get_type_name() not in _SCALING:
        return None
    tensors = [value for value in node.input_values() if not is_constant(value)]
    if len(tensors) != 1 or len(tensors[0].get_target_inputs()) != 1:
        return None
    return owner.get(tensors[0].get_node().get_friendly_name())


def _readers(node: ov.Node) -> tuple[str, ...]:
    return tuple(
        target.get_node().get_friendly_name()
        for output in node.outputs()
        for target in output.get_target_inputs()
    )


def _dependent(nodes: Sequence[ov.Node]) -> set[str]:
    """Names of the ops, in graph order, whose outputs depend on the values of a model's inputs.

    Not those that depend on their shapes alone: the mask of a causal attention, say.
    """
    found: set[str] = set()
    for node in nodes:
        reads = (value.get_node().get_friendly_name() for value in node.input_values())
        kind = node.get_type_name()
        if kind == "Parameter" or (kind != "ShapeOf" and any(name in found for name in reads)):
            found.add(node.get_friendly_name())
    return found


def is_constant(output: ov.Output) -> bool:
    """Whether a value depends on no input of the model."""
    stack = [output.get_node()]
    seen: set[str] = set()
    while stack:
        node = stack.pop()
        if node.get_type_name() == "Parameter":
            return False
        before = [value.get_node() for value in node.input_values()]
        stack.extend(item for item in before if item.get_friendly_name() not in seen)
        seen.update(item.get_friendly_name() for item in before)
    return True
