"""The modules of backends, imported when they are asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import cast

from autoquant.backends.protocol import Target
from autoquant.core.backends import find_rows
from autoquant.core.build import BuildSettings
from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import OpKind, Site
from autoquant.core.statistics import CalibrationStatistics
from autoquant.distribution import install_command
from autoquant.errors import BackendError
from autoquant.model.calibration.ranges.tensor_ranges import TensorRanges
from autoquant.model.graph.captured import Capture
from autoquant.model.numerics.rounding import SchemeRounding


def load_target(name: str) -> Target:
    """Import a backend."""
    rows = find_rows()
    row = rows.get(name)
    if row is None:
        raise BackendError(
            f"backend.name: there is no backend {name!r}", hint=f"one of {', '.join(rows)}"
        )
    if row.missing:
        raise BackendError(
            f"backend.name: {name} needs {', '.join(row.missing)}, which this Python lacks",
            hint=install_command(row.extra),
        )
    return cast("Target", importlib.import_module(row.module).TARGET)


def check_target(settings: BuildSettings) -> None:
    """Refuse a backend that is not here, or whose options are wrong, before a model is loaded.

    Raises:
        AutoquantError: Its extra is not installed; or it does not know the accelerator or cannot
            read the profile.
    """
    load_target(settings.backend).kind_support(settings, OpKind.CONV2D, Scheme.INT8)


def reference_rounding(
    captured: Capture, statistics: CalibrationStatistics, settings: BuildSettings
) -> SchemeRounding:
    """Tell how a target rounds the tensors of a captured model under each scheme."""
    writers = load_target(settings.backend).integer_writers(settings)
    return SchemeRounding(TensorRanges(captured, statistics, settings), writers)


def native_plan(
    scheme: Scheme, sites: Iterable[Site], support: Callable[[Site, Scheme], Support]
) -> Plan:
    """A scheme where the engine has a kernel, else fp32; what follows a site takes its scheme."""
    schemes: dict[str, Scheme] = {}
    for site in sites:
        chosen = scheme if support(site, scheme) is Support.NATIVE else Scheme.FP32
        schemes[site.name] = schemes[site.follows] if site.follows else chosen
    return Plan.of(schemes)
