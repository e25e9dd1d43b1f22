"""torch's own quantized engines as a target."""

from __future__ import annotations

from collections.abc import Mapping

from autoquant.backends.protocol import Backend, BuildRequest
from autoquant.backends.torch_cpu.engines import engines_here, saturates
from autoquant.backends.torch_cpu.graph_backend import TorchGraphBackend
from autoquant.backends.torch_cpu.support import site_support as graph_support
from autoquant.backends.torch_cpu.support import support_of
from autoquant.backends.torch_modules.backend import TorchModulesBackend
from autoquant.backends.torch_modules.support import module_support
from autoquant.core.build import BuildSettings
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site


def site_support(settings: BuildSettings, site: Site, scheme: Scheme) -> Support:
    """How an engine runs one scheme of one site."""
    if settings.capture == "export":
        return graph_support(settings.engine, site, scheme)
    return module_support(settings.engine, site, scheme)


def kind_support(settings: BuildSettings, kind: OpKind, scheme: Scheme) -> Support:
    """How an engine runs one scheme of a kind of op."""
    return support_of(settings.engine, kind, scheme)


def variants() -> Mapping[str, BuildSettings]:
    """The engines that run here."""
    found = {}
    for engine in engines_here():
        bits = "7 bits, its kernels saturate here" if saturates(engine) else "8 bits"
        found[f"torch / {engine} (int8 activations: {bits})"] = BuildSettings(engine=engine)
    return found


def open_backend(request: BuildRequest) -> Backend:
    """Give the backend of the settings' engine: without a graph, module by module."""
    if request.captured.how == "modules":
        return TorchModulesBackend(request)
    return TorchGraphBackend(request)
