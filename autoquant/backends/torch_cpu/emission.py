"""Writing a lowered graph: ops in the forms that kernels read, conversions where forms differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from autoquant.backends.torch_cpu.forms import Form, Value
from autoquant.backends.torch_cpu.packed_weights import PackedWeight
from autoquant.backends.torch_cpu.weights import WeightStore
from autoquant.core.precision import Precision, Scheme
from autoquant.model.calibration.ranges.grid import Grid, affine_grid
from autoquant.model.graph.built_graph import FLOAT_NODE
from autoquant.model.graph.node_shapes import fixed_sizes, tensor_meta

ROUNDED_TO = "rounded_to"
"""Key of the meta of a float constant that lies on the grid of another format: its name."""

_ATEN = torch.ops.aten

_MANY = 4096
"""Integers from which on looking at them in place is faster than copying them."""


class Grids(Protocol):
    """The int8 and int16 grids of the float graph's tensors.

    Attributes:
        weight_bits: Of int8 weights that meet int8 activations.
    """

    weight_bits: int

    def int8_grid(self, tensor: str) -> Grid:
        """Grid of a tensor by the name of its node: levels 0 to 255."""

    def int16_grid(self, tensor: str) -> Grid:
        """Symmetric grid of a tensor."""


class Emitter:
    """Writes one lowered graph, a float node at a time."""

    def __init__(self, store: WeightStore, grids: Grids) -> None:
        self.store = store
        self.grids = grids
        self.graph = Graph()
        self.root = nn.Module()
        self._values: dict[Node, dict[Form, Value]] = {}
        self._held: dict[int, Node] = {}
        self._rounded: dict[tuple[Node, Precision], Node] = {}
        self._origin = ""

    def begin(self, origin: str) -> None:
        """What is written from now on computes this float node; empty: it only converts."""
        self._origin = origin

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Write one op."""
        node = self.graph.call_function(target, args, kwargs)
        if self._origin:
            node.meta[FLOAT_NODE] = self._origin
        return node

    def put(self, source: Node, form: Form, node: Any, grid: Grid | None = None) -> None:
        """Let a node of the lowered graph stand for one of the float graph."""
        self._values.setdefault(source, {})[form] = Value(node, form, grid)

    def forms(self, source: Node) -> tuple[Form, ...]:
        """Forms in which a tensor is there already; the one that it was written in first."""
        return tuple(self._values[source])

    def hold(self, held: Tensor | PackedWeight, name: str) -> Node:
        """Read a constant, or a packed weight; one that was held before under its first name."""
        if id(held) in self._held:
            return self._held[id(held)]
        path = self._free_name(name)
        target = path
        if isinstance(held, PackedWeight):
            self.root.add_module(path, held)
            target = f"{path}.packed"
        else:
            self.root.register_buffer(path, held)
        node = self.graph.create_node("get_attr", target)
        self._held[id(held)] = node
        return node

    def read(self, source: Any, form: Form, grid: Grid | None = None) -> Value:
        """Give a float node's value in a form, converting it where it is not there yet.

        What is no float32 tensor is given as it is.

        Args:
            source: Of the float graph.
            form: As the reader needs it.
            grid: Of integers; None: the tensor's own.
        """
        values = self._values.get(source)
        if values is None:
            values = self._values[source] = {Form.FLOAT32: self._constant(source)}
        if form in values or not is_float32(source):
            return values.get(form) or next(iter(values.values()))
        if source.op == "get_attr":
            values[form] = self._converted_constant(source, form)
        else:
            origin, self._origin = self._origin, ""
            values[form] = self._convert(source, values, form, grid)
            self._origin = origin
        return values[form]

    def arguments(self, node: Node, form: Form) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a float node, its float32 tensors in one form."""

        def give(source: Node) -> Any:
            return self.read(source, form).node

        args = map_arg(node.args, give)
        kwargs = map_arg(node.kwargs, give)
        return args, kwargs

    def rounded(self, source: Node, scheme: Scheme) -> Node:
        """Give a float32 tensor rounded as an emulated scheme reads it, still in float32."""
        key = (source, scheme.activation)
        if key in self._rounded:
            return self._rounded[key]
        floats = self.read(source, Form.FLOAT32).node
        origin, self._origin = self._origin, ""
        if scheme.activation is Precision.FP16:
            half = self.call(_ATEN.to.dtype, floats, torch.float16)
            made = self.call(_ATEN.to.dtype, half, torch.float32)
        else:
            is_wide = scheme.activation is Precision.INT16
            find = self.grids.int16_grid if is_wide else self.grids.int8_grid
            grid = find(source.name)
            numbers = (grid.scale, grid.zero_point, grid.low, grid.high)
            made = self.call(_ATEN.fake_quantize_per_tensor_affine.default, floats, *numbers)
        self._origin = origin
        self._rounded[key] = made
        return made

    def _convert(
        self, source: Node, values: Mapping[Form, Value], form: Form, grid: Grid | None
    ) -> Value:
        if form is Form.QUINT8:
            if Form.UINT8 in values:
                plain = values[Form.UINT8]
                scale, zero_point = plain.numbers
                made = self.call(
                    _ATEN._make_per_tensor_quantized_tensor.default, plain.node, scale, zero_point
                )
                return Value(made, form, plain.grid)
            grid = grid or self.grids.int8_grid(source.name)
            floats = self.read(source, Form.FLOAT32).node
            made = self.call(_ATEN.quantize_per_tensor.default, floats, *grid.numbers, torch.quint8)
            return Value(made, form, grid)
        if form is Form.UINT8:
            quantized = self.read(source, Form.QUINT8, grid)
            return Value(self._bytes(source, quantized.node), form, quantized.grid)
        if form is Form.BFLOAT16:
            floats = self.read(source, Form.FLOAT32).node
            return Value(self.call(_ATEN.to.dtype, floats, torch.bfloat16), form)
        if Form.BFLOAT16 in values:
            narrow = values[Form.BFLOAT16].node
            return Value(self.call(_ATEN.to.dtype, narrow, torch.float32), form)
        quantized = self.read(source, Form.QUINT8)
        return Value(self.call(_ATEN.dequantize.self, quantized.node), form)

    def _bytes(self, source: Node, quantized: Node) -> Node:
        """Read the integers of a quantized tensor: where they are, if there are many.

        torch has an op that copies them, one by one, and none that looks at them in place. So an
        empty tensor is set on their memory, which must not be strided: images are in channels last.
        """
        sizes = fixed_sizes(source)
        if sum(size is None for size in sizes) > 1 or _count(sizes) < _MANY:
            return self.call(_ATEN.int_repr.default, quantized)
        forth = [0, *range(2, len(sizes)), 1] if len(sizes) in (4, 5) else list(range(len(sizes)))
        shape = [
            self.call(_ATEN.sym_size.int, quantized, axis) if sizes[axis] is None else sizes[axis]
            for axis in forth
        ]
        flat = self.call(_ATEN.permute.default, quantized, forth)
        flat = self.call(_ATEN.contiguous.default, flat)
        made = self.call(_ATEN.empty.memory_format, [0], dtype=torch.uint8)
        made = self.call(_ATEN.set_.source_Tensor_storage_offset, made, flat, 0, shape)
        back = [forth.index(axis) for axis in range(len(forth))]
        return self.call(_ATEN.permute.default, made, back)

    def _constant(self, source: Node) -> Value:
        value = self.store.value(source)
        return Value(self.hold(value, str(source.target)), Form.FLOAT32)

    def _converted_constant(self, source: Node, form: Form) -> Value:
        name = str(source.target)
        if form is Form.BFLOAT16:
            cast = self.store.made(
                (form, name), lambda: self.store.value(source).to(torch.bfloat16)
            )
            return Value(self.hold(cast, f"{name}_bfloat16"), form)
        value = self.store.value(source)
        grid = affine_grid((float(value.min()), float(value.max())))
        quantized = self.store.made(
            (Form.QUINT8, name),
            lambda: torch.quantize_per_tensor(value, *grid.numbers, torch.quint8),
        )
        if form is Form.UINT8:
            quantized = self.store.made((form, name), quantized.int_repr)
        return Value(self.hold(quantized, f"{name}_{form.value}"), form, grid)

    def _free_name(self, name: str) -> str:
        path = name.replace(".", "_").replace(":", "_") or "weight"
        number, free = 1, path
        while hasattr(self.root, free):
            number += 1
            free = f"{path}_{number}"
        return free


def _count(sizes: Sequence[int | None]) -> int:
    """Numbers in one sample."""
    return math.prod(size for size in sizes if size is not None) if sizes else 0


def is_float32(node: Node) -> bool:
    """Whether a node of the float graph gives a float32 tensor."""
    meta = tensor_meta(node)
    return meta is not None and meta.dtype is torch.float32
