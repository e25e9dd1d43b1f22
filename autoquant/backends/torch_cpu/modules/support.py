"""Which scheme torch runs for a module between float neighbours."""

from __future__ import annotations

from autoquant.backends.torch_cpu.support import support_of
from autoquant.core.precision import Scheme, Support
from autoquant.core.sites import Site


def module_support(engine: str, site: Site, scheme: Scheme) -> Support:
    """Tell how `engine` runs `scheme` for a module: by a real kernel, or not at all.

    The table is checked against what is really built of one-module models by
    `tests/contract/test_torch_modules.py`.
    """
    if scheme is Scheme.FP32:
        return Support.NATIVE
    is_module = site.kind.is_weighted and site.function is None
    native = is_module and support_of(engine, site.kind, scheme) is Support.NATIVE
    return Support.NATIVE if native else Support.UNSUPPORTED
