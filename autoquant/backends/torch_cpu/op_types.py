"""In which type every op of a lowered graph gets, gives and stores its tensors."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from autoquant.backends.examination import OpTypes, WeightType
from autoquant.backends.torch_cpu.emission import ROUNDED_TO
from autoquant.backends.torch_cpu.kernel_readback import Reading, rounding_of
from autoquant.backends.torch_cpu.packed_weights import PackedWeight, Recipe
from autoquant.core.precision import Precision
from autoquant.model.graph.built_graph import FLOAT_NODE
from autoquant.model.graph.tensor_paths import take


def read_types(module: GraphModule, reading: Reading) -> dict[str, OpTypes]:
    """Give the types of each op by its float node."""
    found: dict[str, OpTypes] = {}
    for node in module.graph.nodes:
        name = str(node.meta.get(FLOAT_NODE, ""))
        if not name or node.name not in reading.calls:
            continue
        if name in found:  # the table of an embedding is read behind its indices
            if found[name].weight is None:
                found[name] = replace(found[name], weight=_weight(module, node))
            continue
        sources = [item for item in node.all_input_nodes if item.op != "get_attr"]
        inputs = tuple(text for item in sources for text in _given(item, reading) if text)
        (output, *_) = reading.calls[node.name][1] or ("",)
        found[name] = OpTypes(inputs, _text(output), _weight(module, node))
    return found


def _given(node: Node, reading: Reading) -> tuple[str, ...]:
    """Types of what a node gives; `int16 in float32` of floats on a grid."""
    rounded = rounding_of(node)
    if node.name not in reading.calls:
        return ("float32",) if node.op == "placeholder" else ()
    dtypes = reading.calls[node.name][1][:1]
    if rounded is Precision.FP32:
        return tuple(map(_text, dtypes))
    return tuple(f"{rounded.value} in {_text(item)}" for item in dtypes)


def _weight(module: GraphModule, node: Node) -> WeightType | None:
    for item in node.all_input_nodes:
        if item.op != "get_attr":
            continue
        owner, _, last = str(item.target).rpartition(".")
        held = module.get_submodule(owner) if owner else None
        if isinstance(held, PackedWeight) and last == "packed":
            return _packed_type(held.recipe)
        value = take(module, str(item.target))
        if isinstance(value, Tensor) and value.ndim > 1:
            if value.dtype is torch.int8:  # beside its scales
                return WeightType("qint8", 0, len(value))
            grid = item.meta.get(ROUNDED_TO)
            return WeightType(f"{grid} in float32" if grid else _text(value.dtype))
    return None


def _packed_type(recipe: Recipe) -> WeightType:
    weight = recipe.tensors[0]
    if weight is None or recipe.pack in ("linear_fp16", "cell_fp16"):
        return WeightType("float16")
    if not weight.is_floating_point() and not weight.is_quantized:  # bytes beside their scales
        return WeightType("qint8", 0, len(weight))
    return WeightType.of(weight)


def _text(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")
