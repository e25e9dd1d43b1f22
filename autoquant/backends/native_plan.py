"""One scheme wherever the engine has a kernel for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from autoquant.core.plan import Plan
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site


def native_plan(
    scheme: Scheme, sites: Iterable[Site], support: Callable[[Site, Scheme], Support]
) -> Plan:
    """A scheme where the engine has a kernel, else fp32; what follows a site takes its scheme."""
    schemes: dict[str, Scheme] = {}
    for site in sites:
        chosen = scheme if support(site, scheme) is Support.NATIVE else Scheme.FP32
        schemes[site.name] = schemes[site.follows] if site.follows else chosen
    return Plan.of(schemes)
