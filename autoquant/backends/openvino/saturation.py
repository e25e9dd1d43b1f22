"""Whether OpenVINO's int8 sums overflow on this CPU."""

from __future__ import annotations

from functools import cache

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from autoquant.backends.openvino.engine import DEVICE, F32, core

_DEPTH = 64


@cache
def saturates() -> bool:
    """Whether products of u8 and s8 overflow their 16-bit intermediate sums on this CPU.

    Without VNNI, x86 kernels add pairs of products in 16 bits. Found out by running a convolution
    on the largest values, not from CPU flags.
    """
    given = ops.parameter([1, _DEPTH, 4, 4], np.float32)
    read = ops.fake_quantize(given, *map(np.float32, (0.0, 255.0, 0.0, 255.0)), 256)
    weight = ops.constant(np.full((16, _DEPTH, 1, 1), 127, np.int8))
    scaled = ops.multiply(ops.convert(weight, "f32"), ops.constant(np.float32(1.0)))
    sums = ops.convolution(read, scaled, [1, 1], [0, 0], [0, 0], [1, 1])
    compiled = core().compile_model(
        ov.Model([sums], [given]), DEVICE, {"INFERENCE_PRECISION_HINT": F32}
    )
    found = compiled(np.full((1, _DEPTH, 4, 4), 255.0, np.float32))[0]
    return bool(np.abs(found - 255.0 * 127.0 * _DEPTH).max() > 1.0)
