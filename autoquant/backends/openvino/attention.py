"""Attentions, written out as their two products: the plugin's own way, with marks kept.

The plugin does the same when it compiles, and loses the marks of their precision.
"""

from __future__ import annotations

import math

import numpy as np
import openvino as ov
from openvino import opset1, opset3, opset4

_ATTENTION = "ScaledDotProductAttention"


def write_out_attentions(model: ov.Model) -> None:
    """Write each attention as products, a mask and a softmax, in place.

    softmax(scale * (query @ key^T) + mask) @ value, as OpenVINO's documentation of
    ScaledDotProductAttention-13 has it. A factor of the query would run in bf16 in all plans with
    any bf16: the plugin moves it to the layer before.
    """
    for node in model.get_ordered_ops():
        if node.get_type_name() != _ATTENTION or not _is_known(node):
            continue
        query, key, value, *rest = node.input_values()
        rank = len(query.get_partial_shape())
        size = query.get_partial_shape()[rank - 1].get_length()
        scale = rest[1] if len(rest) > 1 else np.float32(1.0 / math.sqrt(size))
        product = opset1.matmul(query, key, False, True)
        scores = opset1.multiply(product, scale)
        mask = _causal(scores) if node.get_attributes()["causal"] else _added(rest)
        masked = scores if mask is None else opset1.add(scores, mask)
        weights = opset1.softmax(masked, rank - 1)
        found = opset1.matmul(weights, value, False, False)
        name = node.get_friendly_name()
        made = {"product": product, "scores": scores, "masked": masked, "weights": weights}
        for part, op in made.items():
            op.set_friendly_name(f"{name}/{part}")
        found.set_friendly_name(name)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(found.output(0))


def _is_known(node: ov.Node) -> bool:
    """Whether the size of a head, by which scores are scaled, is fixed."""
    shape = node.input_value(0).get_partial_shape()
    return bool(shape.rank.is_static and shape[len(shape) - 1].is_static)


def _added(rest: list[ov.Output]) -> ov.Output | None:
    """What is added to the scores; -inf where a mask says that nothing counts."""
    if not rest:
        return None
    mask = rest[0]
    if mask.get_element_type() != ov.Type.boolean:
        return mask
    return opset1.select(mask, np.float32(0.0), np.float32(-math.inf)).output(0)


def _causal(scores: ov.Node) -> ov.Output:
    """A mask by which a row sees the columns up to its own number."""
    sizes = opset3.shape_of(scores, "i64")
    rows, columns = (
        opset4.range(np.int64(0), _last(sizes, -index), np.int64(1), "i64") for index in (2, 1)
    )
    later = opset1.greater(columns, opset1.unsqueeze(rows, np.array([1], np.int64)))
    return opset1.select(later, np.float32(-math.inf), np.float32(0.0)).output(0)


def _last(sizes: ov.Node, index: int) -> ov.Output:
    """One of the last sizes of a shape, counted from its end."""
    ends = np.array([index], np.int64)
    return opset1.squeeze(opset3.gather(sizes, ends, np.int64(0)), np.array([0])).output(0)
