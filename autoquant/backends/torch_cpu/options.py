"""What a job may choose of torch's own engines."""

from __future__ import annotations

from typing import Literal

from autoquant.backends.torch_cpu.op_kernels import Kernels
from autoquant.core.build import BuildSettings
from autoquant.job.backend import BackendSettings


class TorchSettings(BackendSettings):
    """Torch's quantized engine, and whether its int8 activations take seven bits."""

    engine: Literal["auto", "per-op", "x86", "onednn", "fbgemm", "qnnpack", "pointwise"] = "auto"
    reduce_range: Literal["auto", True, False] = "auto"

    def check_untimed(self) -> None:
        """Refuse `per-op`, which times kernels."""
        if self.engine == "per-op":
            raise ValueError(
                "backend.engine: per-op takes the faster kernel of each op, which needs latency "
                "among the objectives; choose auto, or add latency"
            )


def engine_of(settings: BuildSettings) -> str:
    """The engine that settings name; empty where they name none."""
    return str(settings.options.get("engine", ""))


def kernels_in(settings: BuildSettings) -> Kernels:
    """Ops that take another engine's kernel."""
    return Kernels.from_json(settings.options.get("kernels", []))
