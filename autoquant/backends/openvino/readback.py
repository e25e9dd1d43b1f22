"""What a compiled model really runs at each site, from the engine's own execution graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import openvino as ov

from autoquant.backends.openvino.layout import QUANTIZER, Layout

EIGHT_BITS = frozenset({"u8", "i8"})
FOUR_BITS = frozenset({"u4", "i4"})
_MOVES = frozenset({"Broadcast", "Convert", "Reorder", "Reshape", "Transpose"})
_KERNELS = {
    "MatMul": frozenset({"MatMul", "FullyConnected"}),
    "Softmax": frozenset({"Softmax"}),
    "Convolution": frozenset({"Convolution"}),
    "GroupConvolution": frozenset({"Convolution"}),
    "ConvolutionBackpropData": frozenset({"Deconvolution"}),
    "GroupConvolutionBackpropData": frozenset({"Deconvolution"}),
}
"""By type of an op, the kernels that may run it: those whose names the engine loses."""

_WEIGHT_INPUT = {"Convolution": 1, "Deconvolution": 1, "FullyConnected": 1, "Gather": 0}
_SCALE_INPUT = 3
"""Of the kernels that decompress a weight, the input that scales it."""


@dataclass(frozen=True, slots=True)
class Execution:
    """How one site runs.

    Attributes:
        layer: Type of the kernel that runs it.
        host: The site that it is fused into; None where it has a kernel of its own.
        reads: Formats of the tensors that it reads, as the kernel finds them.
        written: The same tensors, as their writers left them.
        ahead: How many of these are read for what the kernel computes before it.
        weight: Format of its weight; None where it has none.
        runs: Format that the engine says it computes in.
        writes: Format of what the kernel writes; empty where that is another site's.
        kernel: The engine's name for its implementation.
        group: Weights of a row that share a scale, where the kernel decompresses; else None.
    """

    layer: str
    host: str | None
    reads: tuple[str, ...]
    written: tuple[str, ...]
    weight: str | None
    runs: str
    writes: str
    kernel: str = ""
    group: int | None = None
    ahead: int = 0


class ExecutionGraph:
    """The runtime graph of a compiled model, by site."""

    def __init__(self, compiled: ov.CompiledModel, layout: Layout) -> None:
        self._layout = layout
        self._nodes: dict[str, ov.Node] = {}
        self.nodes = list(compiled.get_runtime_model().get_ordered_ops())
        for node in self.nodes:
            for name in self._known_names(node):
                exact = name in original_names(node)
                self._nodes[name] = node if exact else self._nodes.get(name, node)
        self._renamed_sites: dict[str, str] = {}  # weighted ones, by the kernel that lost the name
        found = ((site, self._find(site, names)) for site, names in layout.computing.items())
        self._running = {site: node for site, node in found if node is not None}

    def executions(self) -> dict[str, Execution]:
        """How every site runs; sites that the engine removed altogether are left out."""
        return {site: self._describe(site, node) for site, node in self._running.items()}

    def owner(self, node: ov.Node) -> str | None:
        """The site that a runtime node belongs to: the first of those fused in it."""
        nameless = self._renamed_sites.get(node.get_friendly_name())
        return nameless or next(iter(self._owners(node)), None)

    def _find(self, site: str, names: Sequence[str]) -> ov.Node | None:
        """The kernel of a site."""
        node = next((self._nodes[name] for name in names if name in self._nodes), None)
        if node is None:
            node = next(filter(None, map(self._renamed, names)), None)
            if node is not None and self._layout.sites[site].kind.is_weighted:
                self._renamed_sites[node.get_friendly_name()] = site
        return node

    def _owners(self, node: ov.Node) -> list[str]:
        """The sites of the ops fused in a runtime node, in the order in which they compute."""
        owners = self._layout.owner
        return [owners[name] for name in self._known_names(node) if name in owners]

    def _known_names(self, node: ov.Node) -> list[str]:
        """The ops of the float graph that a runtime node names, also with a suffix."""
        found = []
        for name in original_names(node):
            known = name.removesuffix("_original")
            while known and known not in self._layout.types:
                known = known.rpartition("/")[0]
            if known:
                found.append(known)
        return found

    def _renamed(self, name: str) -> ov.Node | None:
        """The kernel of an op whose name the engine lost when it rewrote the graph around it.

        The next kernel that has a name is it, under the name of a small op that it absorbed; or
        it lies before that one, behind none but nameless ones, and is the only one there of its
        type; or that one is a subgraph that swallowed it. What has no kernel of its own is part of
        the next one: several small ops that the engine makes one of have the name of the last.
        """
        wanted = _KERNELS.get(self._layout.types[name])
        following, seen = [name], {name}
        for op in following:  # grows while it is walked
            after = self._nodes.get(op)
            if after is None:
                new = [item for item in self._layout.readers[op] if item not in seen]
                following.extend(new)
                seen.update(new)
                continue
            if wanted is None:
                return after
            if fact(after, "layerType") in wanted and not self._computes(after, name):
                return after
            fitting = [
                item for item in self._nameless_before(after) if fact(item, "layerType") in wanted
            ]
            if len(fitting) == 1:
                return fitting[0]
            if not fitting and fact(after, "layerType") == "Subgraph":
                return after
        return None

    def _computes(self, node: ov.Node, name: str) -> bool:
        """Whether a runtime node names an op of the same type as another."""
        types = self._layout.types
        return any(types[known] == types[name] for known in self._known_names(node))

    def _nameless_before(self, node: ov.Node) -> list[ov.Node]:
        """Runtime nodes before another that name no op of the float graph, nearest first."""
        found: list[ov.Node] = []
        for value in node.input_values():
            before = value.get_node()
            if self.is_inserted(before) and not depends_on_constants(before):
                found.append(before)
                found.extend(self._nameless_before(before))
        return found

    def is_inserted(self, node: ov.Node) -> bool:
        """Whether a runtime node computes no op of the captured graph, and no input of it."""
        if fact(node, "layerType") in ("Input", "Output"):
            return False
        return not any(name in self._layout.known for name in self._known_names(node))

    def _describe(self, site: str, node: ov.Node) -> Execution:
        layer = fact(node, "layerType")
        first, last = self.owner(node), next(reversed(self._owners(node)), site)
        host = None if first == site else first
        values = node.input_values()
        at = _WEIGHT_INPUT.get(layer)
        weight = values[at] if at is not None and at < len(values) else None
        tensors = [value for value in values if not depends_on_constants(value.get_node())]
        return Execution(
            layer=layer,
            host=host,
            reads=tuple(map(_precision, tensors)),
            written=tuple(map(self._written, tensors)),
            weight=None if weight is None else _precision(weight),
            runs=fact(node, "runtimePrecision"),
            writes=fact(node, "outputPrecisions").split(",")[0] if last == site else "",
            kernel=fact(node, "primitiveType"),
            group=None if weight is None else _group(weight, values),
            ahead=0 if host is None else self._read_ahead(site, node),
        )

    def _read_ahead(self, site: str, node: ov.Node) -> int:
        """How many tensors a kernel reads before those of a site that is fused into it."""
        owners = list(dict.fromkeys(self._owners(node)))
        if site not in owners:
            return 1
        before = owners[: owners.index(site)]
        kept = max(len(before) - 1, 0)  # results that it does not read, but has
        return sum(len(self._layout.sites[name].input_shapes) for name in before) - kept

    def _written(self, value: ov.Output) -> str:
        """Format in which the writer of a tensor left it, before it was moved or converted.

        A kernel may round what it writes to 8 bits and store it as floats all the same, where
        another kernel is to add to them in place. Masks and the model's own integers, which the
        engine keeps in bytes too, are `integer`, and so is what it spreads of constants.
        """
        while fact(value.get_node(), "layerType") in _MOVES and value.get_node().get_input_size():
            value = value.get_node().input_value(0)
        names = original_names(value.get_node())
        if names and names[-1].startswith(QUANTIZER):
            return "u8"
        if names and names[-1] in self._layout.integers:
            return "integer"
        written = _precision(value)
        spread = written in EIGHT_BITS and depends_on_constants(value.get_node())
        return "integer" if spread else written


def fact(node: ov.Node, key: str) -> str:
    """One entry of what the engine says of a runtime node; empty where it says nothing."""
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def original_names(node: ov.Node) -> list[str]:
    """Friendly names of the ops that a runtime node computes."""
    text = fact(node, "originalLayersNames")
    return text.split(",") if text else []


def depends_on_constants(node: ov.Node) -> bool:
    """Whether a runtime node depends on constants alone; graphs are deeper than Python calls."""
    waiting = [node]
    while waiting:
        before = waiting.pop()
        if fact(before, "layerType") == "Const":
            continue
        if not before.get_input_size():
            return False
        waiting.extend(value.get_node() for value in before.input_values())
    return True


def _group(weight: ov.Output, values: Sequence[ov.Output]) -> int | None:
    """Weights of a row that share a scale, by the shapes of both."""
    if _precision(weight) not in FOUR_BITS or len(values) <= _SCALE_INPUT:
        return None
    columns, scales = (item.get_shape()[-1] for item in (weight, values[_SCALE_INPUT]))
    return int(columns // scales) if scales and columns % scales == 0 else None


def _precision(value: ov.Output) -> str:
    """Format of one of the outputs of a runtime node."""
    found: list[str] = fact(value.get_node(), "outputPrecisions").split(",")
    index: int = value.get_index()
    return found[min(index, len(found) - 1)]
