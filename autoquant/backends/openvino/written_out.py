"""Attentions and norms, written out in small ops as the plugin does when it compiles.

It loses the marks of their precision there: written out before, each op keeps its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import openvino as ov
from openvino import opset1, opset3, opset4, opset6

Parts = dict[str, ov.Node]
"""Ops by what they are called; the last gives the result."""


def write_out(model: ov.Model) -> None:
    """Write each attention and norm out, in place; the last op has its name."""
    for node in model.get_ordered_ops():
        form = _FORMS.get(node.get_type_name())
        if form is None or not _is_known(node):
            continue
        name = node.get_friendly_name()
        *parts, last = form(node).items()
        for part, op in parts:
            op.set_friendly_name(f"{name}/{part}")
        last[1].set_friendly_name(name)
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(last[1].output(0))


def _is_known(node: ov.Node) -> bool:
    """Whether all is fixed that the form needs: a rank, the size of a head, statistics."""
    shape = node.input_value(0).get_partial_shape()
    if shape.rank.is_dynamic:
        return False
    if node.get_type_name() == _BATCH_NORM:
        statistics = node.input_values()[1:]
        return all(item.get_node().get_type_name() == "Constant" for item in statistics)
    return node.get_type_name() != _ATTENTION or bool(shape[len(shape) - 1].is_static)


def _attention(node: ov.Node) -> Parts:
    """softmax(scale * (query @ key^T) + mask) @ value (OpenVINO: ScaledDotProductAttention-13).

    A factor of the query would run in bf16 in all plans with any bf16: the plugin moves it to the
    layer before.
    """
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
    return {
        "product": product,
        "scores": scores,
        "masked": masked,
        "weights": weights,
        "found": found,
    }


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


def _batch_norm(node: ov.Node) -> Parts:
    """A factor and a shift of each channel, of constants."""
    source, gamma, beta, mean, variance = node.input_values()
    epsilon = np.float32(node.get_attributes()["epsilon"])
    deviation = opset1.sqrt(opset1.add(variance, epsilon))
    factor = opset1.divide(gamma, deviation)
    shift = opset1.subtract(beta, opset1.multiply(mean, factor))
    scaled = opset1.multiply(source, _beside(factor, source))
    shifted = opset1.add(scaled, _beside(shift, source))
    return {"scaled": scaled, "shifted": shifted}


def _group_norm(node: ov.Node) -> Parts:
    """The values of a group less their mean, over their deviation; then by channel."""
    source, gamma, beta = node.input_values()
    facts = node.get_attributes()
    groups = np.array([0, facts["num_groups"], -1], np.int64)
    rows = opset1.reshape(source, groups, True)
    normed = opset6.mvn(rows, np.array([2], np.int64), True, facts["epsilon"], "inside_sqrt")
    found = opset1.reshape(normed, opset3.shape_of(source, "i64"), False)
    scaled = opset1.multiply(found, _beside(gamma, source))
    shifted = opset1.add(scaled, _beside(beta, source))
    return {"rows": rows, "normed": normed, "found": found, "scaled": scaled, "shifted": shifted}


def _beside(channels: ov.Output | ov.Node, source: ov.Output) -> ov.Node:
    """One value for each channel, in the shape that goes with a tensor."""
    ones = [1] * (len(source.get_partial_shape()) - 2)
    return opset1.reshape(channels, np.array([1, -1, *ones], np.int64), False)


_BATCH_NORM = "BatchNormInference"
_ATTENTION = "ScaledDotProductAttention"
_FORMS: Mapping[str, Callable[[ov.Node], Parts]] = {
    _ATTENTION: _attention,
    _BATCH_NORM: _batch_norm,
    "GroupNormalization": _group_norm,
}
