"""OpenVINO on this machine's CPU as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.openvino import support
from autoquant.backends.openvino.backend import OpenVinoBackend
from autoquant.backends.openvino.engine import F16, precision_for
from autoquant.backends.protocol import BuildRequest, IntegerWriter
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:  # noqa: ARG001
    """How OpenVINO runs one scheme of one site."""
    return support.site_support(site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:  # noqa: ARG001
    """How OpenVINO runs one scheme of a kind of op."""
    return support.kind_support(kind, scheme)


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:  # noqa: ARG001
    """None: its int8 kernels give floats as well."""
    return ()


def variants() -> Mapping[str, BuildSettings]:
    """The one that there is, with what this CPU makes of f16."""
    found = precision_for(F16)
    note = "" if found == F16 else f" (no fp16: asked for f16, it runs {found} on this CPU)"
    return {f"openvino{note}": BuildSettings("openvino")}


def open_backend(request: BuildRequest) -> OpenVinoBackend:
    """Convert the float model."""
    return OpenVinoBackend(request)
