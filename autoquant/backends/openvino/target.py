"""OpenVINO on this machine's CPU as a target."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.openvino.engine import F16, precision_for
from autoquant.backends.openvino.support import kind_support, site_support
from autoquant.backends.protocol import Target, without_options
from autoquant.core.build import BuildSettings


def variants() -> Mapping[str, BuildSettings]:
    """The one that there is, with what this CPU makes of f16."""
    found = precision_for(F16)
    note = "" if found == F16 else f" (no fp16: asked for f16, it runs {found} on this CPU)"
    return {f"openvino{note}": BuildSettings("openvino")}


TARGET = Target(
    OpenVinoBackend, without_options(site_support), without_options(kind_support), variants
)
