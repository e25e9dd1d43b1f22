"""ONNX Runtime on this CPU as a target."""

from __future__ import annotations

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.support import support_at, support_of
from autoquant.backends.protocol import Target, every_kind, without_options
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme

TARGET = Target(
    OnnxRuntimeBackend,
    without_options(support_at),
    without_options(support_of),
    variants=lambda: {"onnxruntime / CPU": BuildSettings(backend="onnxruntime")},
    # it runs an op in integers where its result is quantized
    integer_writers=lambda _: every_kind(Scheme.INT8),
)
