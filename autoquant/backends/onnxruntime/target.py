"""ONNX Runtime on this CPU as a target."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from autoquant.backends.onnxruntime.backend import OnnxRuntimeBackend
from autoquant.backends.onnxruntime.support import support_at, support_of
from autoquant.backends.protocol import BuildRequest, IntegerWriter, every_kind
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:  # noqa: ARG001
    """How ONNX Runtime runs one scheme of one site."""
    return support_at(site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:  # noqa: ARG001
    """How it runs one scheme of a kind of op."""
    return support_of(kind, scheme)


def integer_writers(settings: BuildSettings) -> Collection[IntegerWriter]:  # noqa: ARG001
    """All: it runs an op in integers where its result is quantized."""
    return every_kind(Scheme.INT8)


def variants() -> Mapping[str, BuildSettings]:
    """The CPU that it runs on."""
    return {"onnxruntime / CPU": BuildSettings(backend="onnxruntime")}


def open_backend(request: BuildRequest) -> OnnxRuntimeBackend:
    """Write the float model in ONNX, once."""
    return OnnxRuntimeBackend(request)
