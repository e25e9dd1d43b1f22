"""What a job may choose of torch's own engines."""

from __future__ import annotations

from typing import Literal

from autoquant.job.backend import BackendSettings


class TorchSettings(BackendSettings):
    """Torch's quantized engine, and whether its int8 activations take seven bits."""

    engine: Literal["auto", "per-op", "x86", "onednn", "fbgemm", "qnnpack", "pointwise"] = "auto"
    reduce_range: Literal["auto", True, False] = "auto"
