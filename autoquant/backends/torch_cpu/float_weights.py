"""Kernels between float neighbours whose weights alone are stored in fewer bits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from autoquant.backends.torch_cpu.convolutions import has_constants, is_constant
from autoquant.backends.torch_cpu.emission import Emitter
from autoquant.backends.torch_cpu.engines import has_fp16_linear
from autoquant.backends.torch_cpu.float_ops import emit_each
from autoquant.backends.torch_cpu.forms import Form
from autoquant.backends.torch_cpu.operations import Kernel, Operation
from autoquant.backends.torch_cpu.packed_weights import Recipe
from autoquant.backends.torch_cpu.quantized_ops import linear_weight, packed_weight
from autoquant.backends.torch_cpu.weights import quantize_table
from autoquant.core.precision import Scheme

_QUANTIZED = torch.ops.quantized
_ATEN = torch.ops.aten
_SUM, _MEAN = 0, 1
_RECURRENT = ("lstm", "gru")


def dynamic_kernel(operation: Operation, engine: str) -> Kernel | None:
    """int8 weights, inputs rounded at a scale that is found for every batch."""
    emit: Callable[[Emitter, Operation, Form], None] | None = None
    if operation.name == "linear" and has_constants(operation):
        emit = partial(_multiply_dynamically, engine)
    elif operation.name in _RECURRENT and _can_pack_cells(operation):
        emit = partial(_recur, engine, "cell")
    return None if emit is None else _floats(emit, Scheme.INT8_DYNAMIC)


def weight_only_kernel(operation: Operation, engine: str) -> Kernel | None:
    """int8 weights, float arithmetic."""
    if operation.name == "embedding" and is_constant(operation.argument("weight")):
        return _floats(partial(_look_up, engine), Scheme.INT8_WEIGHT_ONLY)
    if operation.name == "embedding_bag" and _can_pack_bag(operation):
        return _floats(partial(_look_up_bags, engine), Scheme.INT8_WEIGHT_ONLY)
    return None


def half_kernel(operation: Operation, engine: str) -> Kernel | None:
    """fp16 weights with a kernel of their own."""
    if not has_fp16_linear(engine):
        return None
    if operation.name == "linear" and has_constants(operation):
        return _floats(partial(_multiply_halves, engine), Scheme.FP16)
    if operation.name in _RECURRENT and _can_pack_cells(operation):
        return _floats(partial(_recur, engine, "cell_fp16"), Scheme.FP16)
    return None


def _floats(emit: Callable[[Emitter, Operation, Form], None], scheme: Scheme) -> Kernel:
    return Kernel(Form.FLOAT32, (Form.FLOAT32,), emit, scheme)


def _finish(emitter: Emitter, operation: Operation, made: Node) -> None:
    """Write the relu behind an op that has none within it."""
    emitter.put(operation.root, Form.FLOAT32, made)
    emit_each(emitter, operation.nodes[1:], Form.FLOAT32)


def _multiply_dynamically(engine: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.argument("input"), out).node
    packed = linear_weight(emitter, operation, engine, "linear_dynamic")
    made = emitter.call(_QUANTIZED.linear_dynamic.default, read, packed, False)
    _finish(emitter, operation, made)


def _multiply_halves(engine: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    read = emitter.read(operation.argument("input"), out).node
    packed = packed_weight(emitter, operation, engine, "linear_fp16", emitter.store.value)
    _finish(emitter, operation, emitter.call(_QUANTIZED.linear_dynamic_fp16.default, read, packed))


def _table(engine: str, emitter: Emitter, operation: Operation) -> Node:
    weight = operation.argument("weight")
    store = emitter.store

    def recipe() -> Recipe:
        return Recipe("embedding", engine, (quantize_table(store.value(weight)),))

    return emitter.hold(
        store.packed((engine, "embedding", weight.target), recipe), operation.site.name
    )


def _look_up(engine: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    indices = emitter.read(operation.argument("indices"), out).node
    whole = emitter.call(_ATEN.contiguous.default, indices)  # its kernel refuses other strides
    packed = _table(engine, emitter, operation)
    made = emitter.call(_QUANTIZED.embedding_byte.default, packed, whole)
    emitter.put(operation.last, out, made)


def _can_pack_bag(operation: Operation) -> bool:
    root = operation.root
    names = {item.name for item in root.target._schema.arguments}  # type: ignore[union-attr]
    padding = operation.argument("padding_idx") if "padding_idx" in names else None
    return (
        is_constant(operation.argument("weight"))
        and operation.argument("mode") in (_SUM, _MEAN)
        and (padding is None or padding < 0)
    )


def _look_up_bags(engine: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    names = ("indices", "offsets", "per_sample_weights")
    sources = [operation.argument(name) for name in names]
    indices, offsets, weights = (
        None if item is None else emitter.read(item, out).node for item in sources
    )
    last = bool(operation.argument("include_last_offset"))
    packed = _table(engine, emitter, operation)
    made = emitter.call(
        _QUANTIZED.embedding_bag_byte.default,
        packed,
        emitter.call(_ATEN.contiguous.default, indices),
        emitter.call(_ATEN.contiguous.default, offsets),
        False,
        _SUM,
        False,
        weights,
        None,
        last,
    )
    if operation.argument("mode") == _MEAN:
        made = _divide_by_counts(emitter, made, indices, offsets, last)
    emitter.put(operation.last, out, (made,))


def _divide_by_counts(emitter: Emitter, sums: Node, indices: Any, offsets: Any, last: bool) -> Node:
    """Means of bags from their sums; an empty bag has the mean 0."""
    ends = offsets
    if not last:
        count = emitter.call(_ATEN.ones_like.default, indices)
        total = emitter.call(_ATEN.sum.dim_IntList, count, [0], True)
        ends = emitter.call(_ATEN.cat.default, [offsets, total])
    counts = emitter.call(_ATEN.diff.default, ends)
    counts = emitter.call(_ATEN.clamp.default, counts, 1)
    return emitter.call(_ATEN.div.Tensor, sums, emitter.call(_ATEN.unsqueeze.default, counts, 1))


def _can_pack_cells(operation: Operation) -> bool:
    root = operation.root
    if "data" in str(root.target._overloadname):  # type: ignore[union-attr]
        return False
    parameters = operation.argument("params")
    per_cell = 4 if operation.argument("has_biases") else 2
    layers = operation.argument("num_layers") * (1 + int(operation.argument("bidirectional")))
    return len(parameters) == per_cell * layers and all(map(is_constant, parameters))


def _recur(engine: str, pack: str, emitter: Emitter, operation: Operation, out: Form) -> None:
    hidden = operation.argument("hx")
    read = emitter.read(operation.argument("input"), out).node
    state: Any = (
        [emitter.read(item, out).node for item in hidden]
        if isinstance(hidden, (list, tuple))
        else emitter.read(hidden, out).node
    )
    cells = _cells(engine, pack, emitter, operation)
    names = ("num_layers", "dropout", "train", "bidirectional", "batch_first")
    numbers = [operation.argument(name) for name in names]
    if operation.name == "lstm":
        dtype = torch.qint8 if pack == "cell" else torch.float16
        made = emitter.call(
            _ATEN.quantized_lstm.input,
            read, state, cells, True, *numbers, dtype=dtype, use_dynamic=True,
        )  # fmt: skip
    else:
        made = emitter.call(_ATEN.quantized_gru.input, read, state, cells, True, *numbers)
    emitter.put(operation.last, out, made)


def _cells(engine: str, pack: str, emitter: Emitter, operation: Operation) -> list[Node]:
    """The packed weights of every layer and direction: int8 (`cell`), or halves (`cell_fp16`)."""
    parameters = operation.argument("params")
    step = 4 if operation.argument("has_biases") else 2
    store = emitter.store
    found = []
    for start in range(0, len(parameters), step):
        nodes = parameters[start : start + step]

        def recipe(nodes: list[Node] = nodes) -> Recipe:
            zeros = torch.zeros(store.value(nodes[0]).shape[0])
            biases: list[Tensor] = [store.value(item) for item in nodes[2:]] or [zeros, zeros]
            if pack == "cell_fp16":
                return Recipe(pack, engine, (*map(store.value, nodes[:2]), *biases))
            weights = [store.quantized(item, per_channel=False) for item in nodes[:2]]
            return Recipe(pack, engine, (*weights, *biases), (False,))

        key = (engine, pack, *(item.target for item in nodes))
        found.append(emitter.hold(store.packed(key, recipe), f"{operation.site.name}_{start}"))
    return found
