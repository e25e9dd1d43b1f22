"""OpenVINO on this machine's CPU as a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.openvino.engine import F16, precision_for
from autoquant.backends.openvino.saturation import saturates
from autoquant.backends.openvino.support import kind_support, site_support
from autoquant.backends.protocol import Target, without_options
from autoquant.core.build import BuildSettings


def variants() -> Mapping[str, BuildSettings]:
    """The one that there is, with what this CPU makes of f16 and of int8."""
    found = precision_for(F16)
    notes = [] if found == F16 else [f"no fp16: asked for f16, it runs {found} on this CPU"]
    notes += ["int8 weights: 7 bits, its kernels saturate here"] if saturates() else []
    return {"openvino" + (f" ({'; '.join(notes)})" if notes else ""): BuildSettings("openvino")}


def recipe(settings: BuildSettings, path: Path, threads: int) -> str:  # noqa: ARG001
    """compile_model with the options that the file carries, threads and hints among them."""
    return (
        f"import json, openvino; model = openvino.Core().read_model({str(path)!r}); "
        'options = json.loads(model.get_rt_info(["autoquant"]).astype(str))["openvino"]; '
        'run = openvino.Core().compile_model(model, "CPU", options)'
    )


TARGET = Target(
    OpenVinoBackend,
    without_options(site_support),
    without_options(kind_support),
    variants,
    overflows=lambda _: saturates(),
    recipe=recipe,
)
