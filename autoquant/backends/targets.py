"""The backends: a row each. A new one is a row here, a folder beside, and the contract suite."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from autoquant.backends.protocol import Target
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme
from autoquant.core.sites import OpKind
from autoquant.distribution import install_command
from autoquant.errors import BackendError


@dataclass(frozen=True, slots=True)
class Row:
    """One backend.

    Attributes:
        module: Where its `Target` functions are; imported when it is asked for.
        summary: One line for `autoquant backends`.
        extra: Optional dependencies that it needs (`autoquant-search[openvino]`).
        packages: What these bring, as they are imported.
        is_estimate: Whether its latency is what a model of the target says.
        is_slow: Whether to build one plan takes most of a minute.
    """

    module: str
    summary: str
    extra: str = ""
    packages: tuple[str, ...] = ()
    is_estimate: bool = False
    is_slow: bool = False

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)


TORCH = "torch"

TARGETS: Mapping[str, Row] = {
    TORCH: Row(
        "autoquant.backends.torch_cpu.target",
        "torch's own quantized engines on this CPU",
    ),
    "openvino": Row(
        "autoquant.backends.openvino.target",
        "OpenVINO on this CPU: int8, bf16 and fp32 kernels, per op",
        extra="openvino",
        packages=("openvino",),
    ),
    "onnxruntime": Row(
        "autoquant.backends.onnxruntime.target",
        "ONNX Runtime's CPU kernels: int8, dynamic int8, fp32",
        extra="onnxruntime",
        packages=("onnx", "onnxruntime", "onnxscript"),
    ),
    "profile": Row(
        "autoquant.backends.profile.target",
        "any accelerator that a YAML file describes; its latency is estimated",
        is_estimate=True,
    ),
    "inductor": Row(
        "autoquant.backends.inductor.target",
        "torch.compile with torchao's PT2E; slow to build, to confirm what a search found",
        extra="inductor",
        packages=("torchao",),
        is_slow=True,
    ),
    "litert": Row(
        "autoquant.backends.litert.target",
        "LiteRT (.tflite) on this CPU: real int8, int16 and fp32 kernels in one file",
        extra="litert",
        packages=("ai_edge_litert", "litert_torch"),
    ),
    "ethos-u": Row(
        "autoquant.backends.ethos_u.target",
        "Arm Ethos-U NPUs: int8 and int16, latency by Arm's Vela, quality by LiteRT's kernels",
        extra="ethos-u",
        packages=("ai_edge_litert", "litert_torch", "ethosu"),
        is_estimate=True,
    ),
}

ESTIMATED = frozenset(name for name, row in TARGETS.items() if row.is_estimate)


def load_target(name: str) -> Target:
    """Import a backend.

    Raises:
        BackendError: There is none of that name, or its extra is not installed.
    """
    row = TARGETS.get(name)
    if row is None:
        raise BackendError(
            f"backend.name: there is no backend {name!r}", hint=f"one of {', '.join(TARGETS)}"
        )
    if row.missing:
        raise BackendError(
            f"backend.name: {name} needs {', '.join(row.missing)}, which this Python lacks",
            hint=install_command(row.extra),
        )
    return cast("Target", importlib.import_module(row.module))


def check_target(settings: BuildSettings) -> None:
    """Refuse a backend that is not here, or whose options are wrong, before a model is loaded.

    Raises:
        AutoquantError: Its extra is not installed; or it does not know the accelerator or cannot
            read the profile.
    """
    load_target(settings.backend).kind_support(settings, OpKind.CONV2D, Scheme.INT8)
