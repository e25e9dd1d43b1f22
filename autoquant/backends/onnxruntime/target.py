"""ONNX Runtime on this CPU as a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.saturation import saturates
from autoquant.backends.onnxruntime.sessions import session_entries
from autoquant.backends.onnxruntime.support import support_at, support_of
from autoquant.backends.protocol import Target, every_kind, without_options
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme


def variants() -> Mapping[str, BuildSettings]:
    """The one that there is, with what this CPU makes of int8."""
    note = " (int8 weights: 7 bits, its kernels saturate here)" if saturates() else ""
    return {f"onnxruntime / CPU{note}": BuildSettings(backend="onnxruntime")}


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:  # noqa: ARG001
    """A session with as many threads, and with what else sessions here are opened with."""
    entries = "".join(
        f"options.add_session_config_entry({key!r}, {value!r}); "
        for key, value in session_entries().items()
    )
    return (
        "import onnxruntime; options = onnxruntime.SessionOptions(); "
        f"options.intra_op_num_threads = {threads}; options.inter_op_num_threads = 1; {entries}"
        f"session = onnxruntime.InferenceSession({str(path)!r}, options, "
        'providers=["CPUExecutionProvider"]); run = lambda inputs: session.run(None, inputs)'
    )


TARGET = Target(
    OnnxRuntimeBackend,
    without_options(support_at),
    without_options(support_of),
    variants,
    # it runs an op in integers where its result is quantized
    integer_writers=lambda _: every_kind(Scheme.INT8),
    overflows=lambda _: saturates(),
    recipe=recipe,
)
