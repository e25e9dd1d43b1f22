"""Recurrent layers with int8 weights."""

from __future__ import annotations

import numpy as np

from autoquant.backends.onnxruntime.units import Unit
from autoquant.backends.onnxruntime.writer import CONTRIB
from autoquant.backends.onnxruntime.writing import Writing, attributes_of


def dynamic_lstm(writing: Writing, unit: Unit) -> bool:
    """DynamicQuantizeLSTM: int8 weights, inputs and states on the grid of each step's batch."""
    root, writer = unit.root, writing.writer
    weights = [writing.graph.array(item) for item in root.input[1:3]]
    attributes = attributes_of(root)
    if any(item is None for item in weights) or attributes.pop("layout", 0):
        return False
    names: list[list[str]] = []
    for part, weight in zip(("input", "state"), weights, strict=True):
        if weight is None:
            return False
        scale = np.maximum(np.abs(weight).max(axis=2) / 127.0, 1e-30).astype(np.float32)
        codes = np.clip(np.rint(weight / scale[..., None]), -127, 127).astype(np.int8)
        stem = f"{root.name}/{part}"
        names.append(
            [
                writer.constant(f"{stem}_codes", codes.transpose(0, 2, 1)),
                writer.constant(f"{stem}_scale", scale),
                writer.constant(f"{stem}_zero_point", np.zeros(scale.shape, np.int8)),
            ]
        )
    rest = [writer.as_float(item) for item in root.input[3:]]
    rest += [""] * (5 - len(rest))
    (w, w_scale, w_zero), (r, r_scale, r_zero) = names
    source = writer.as_float(root.input[0])
    inputs = [source, w, r, *rest, w_scale, w_zero, r_scale, r_zero]
    writer.node(
        "DynamicQuantizeLSTM",
        inputs,
        root.name,
        outputs=root.output,
        domain=CONTRIB,
        **attributes,
    )
    for output in root.output:
        writer.set_float(output)
    return True
