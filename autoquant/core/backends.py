"""The backends by name: a row each, here or as an entry point of another package."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points

from autoquant.errors import BackendError


@dataclass(frozen=True, slots=True)
class Row:
    """One backend.

    Attributes:
        module: Where its `TARGET` is; imported when it is asked for.
        summary: One line for `autoquant backends`.
        extra: Optional dependencies that it needs (`autoquant-search[openvino]`).
        packages: What these bring, as they are imported.
        is_estimate: Whether its latency is what a model of the target says.
        is_slow: Whether to build one plan takes most of a minute.
        is_mobile: Whether what it builds is for other devices, and runs here to be tested.
        section: Its options in a job, a `BackendSettings`, as `package.module:Class`; empty where
            it has none of its own.
    """

    module: str
    summary: str
    extra: str = ""
    packages: tuple[str, ...] = ()
    is_estimate: bool = False
    is_slow: bool = False
    is_mobile: bool = False
    section: str = ""

    @property
    def missing(self) -> tuple[str, ...]:
        """Packages that are not installed."""
        return tuple(name for name in self.packages if importlib.util.find_spec(name) is None)


TORCH = "torch"
PROFILE = "profile"
BY_TORCH = (TORCH, PROFILE)
"""Those whose plans torch computes."""
GROUP = "autoquant.backends"

_BUILT_IN: Mapping[str, Row] = {
    TORCH: Row(
        "autoquant.backends.torch_cpu.target",
        "torch's own quantized engines on this CPU",
        section="autoquant.backends.torch_cpu.options:TorchSettings",
    ),
    "openvino": Row(
        "autoquant.backends.openvino.target",
        "OpenVINO on this CPU: int8, bf16 and fp32 kernels, per op",
        extra="openvino",
        packages=("openvino",),
        section="autoquant.job.backend:Int8Settings",
    ),
    "onnxruntime": Row(
        "autoquant.backends.onnxruntime.target",
        "ONNX Runtime's CPU kernels: int8, dynamic int8, fp32",
        extra="onnxruntime",
        packages=("onnx", "onnxruntime", "onnxscript"),
        section="autoquant.job.backend:Int8Settings",
    ),
    "litert": Row(
        "autoquant.backends.litert.target",
        "LiteRT (.tflite) on this CPU: real int8, int16 and fp32 kernels in one file",
        extra="litert",
        packages=("ai_edge_litert", "litert_torch"),
        is_mobile=True,
    ),
    "ethos-u": Row(
        "autoquant.backends.litert.ethos_u.target",
        "Arm Ethos-U NPUs: int8 and int16, latency by Arm's Vela, quality by LiteRT's kernels",
        extra="ethos-u",
        packages=("ai_edge_litert", "litert_torch", "ethosu"),
        is_estimate=True,
        section="autoquant.backends.litert.ethos_u.options:EthosUSettings",
    ),
    PROFILE: Row(
        "autoquant.backends.profile.target",
        "any accelerator that a YAML file describes; its latency is estimated",
        is_estimate=True,
        section="autoquant.backends.profile.options:ProfileSettings",
    ),
    "inductor": Row(
        "autoquant.backends.inductor.target",
        "torch.compile with torchao's PT2E; slow to build, to confirm what a search found",
        extra="inductor",
        packages=("torchao",),
        is_slow=True,
    ),
}


@cache
def find_rows() -> Mapping[str, Row]:
    """All backends by name: autoquant's own, and those that other packages bring.

    Entry points are looked for once: that reads what every installed package says of itself.
    A package brings one by an entry point of the group `autoquant.backends` that is a `Row`.

    Raises:
        BackendError: An entry point cannot be imported, or is no `Row`.
    """
    found = dict(_BUILT_IN)
    for point in entry_points(group=GROUP):
        if point.name not in found:
            found[point.name] = _loaded(point)
    return found


def _loaded(point: EntryPoint) -> Row:
    hint = f"mend or uninstall the package that brings the backend {point.name!r}"
    try:
        row = point.load()
    except (ImportError, AttributeError) as error:
        raise BackendError(
            f"the entry point {point.value} of {GROUP} cannot be imported: {error}", hint=hint
        ) from error
    if not isinstance(row, Row):
        raise BackendError(f"the entry point {point.value} of {GROUP} is no Row", hint=hint)
    return row


def is_estimate(name: str) -> bool:
    """Whether the latency of a backend is what a model of its target says."""
    return find_rows()[name].is_estimate
